//! The sampler's step on the emulated device: every rule gives the bits of the host, also as a graph.
#![allow(clippy::unwrap_used)]
#![cfg(feature = "emulate")]

use half::{bf16, f16};
use selvedge::{
    device::{Cuda, Memory, Schedule as Order},
    kernels::scheduler::{self, Buffers, DeviceSampler},
    models::noise::{NoiseSchedule, Prediction},
    sample::{Sampler, Schedule, Settings},
    tensor::{DType, philox},
};
use std::sync::Arc;

const STEPS: usize = 5;

fn normals(seed: u64, len: usize) -> Vec<f32> {
    let mut v = vec![0.0; len];
    philox::fill_normal(seed, 0, &mut v);
    v
}

/// `v` as it is stored, and what the stored numbers are.
fn stored(v: &[f32], dtype: DType) -> (Vec<u8>, Vec<f32>) {
    match dtype {
        DType::Bf16 => {
            let bits: Vec<bf16> = v.iter().map(|x| bf16::from_f32(*x)).collect();
            (bytemuck::cast_slice(&bits).to_vec(), bits.iter().map(|x| x.to_f32()).collect())
        }
        DType::F16 => {
            let bits: Vec<f16> = v.iter().map(|x| f16::from_f32(*x)).collect();
            (bytemuck::cast_slice(&bits).to_vec(), bits.iter().map(|x| x.to_f32()).collect())
        }
        _ => (bytemuck::cast_slice(v).to_vec(), v.to_vec()),
    }
}

/// One sampling run: what is sampled and how.
#[derive(Clone, Copy, Debug)]
struct Run {
    sampler: Sampler,
    prediction: Prediction,
    dtype: DType,
    guidance: Option<f32>,
    len: usize,
    clip: Option<f32>,
}

impl Run {
    fn schedule(&self) -> Schedule {
        let noise = NoiseSchedule::stable_diffusion(self.prediction);
        let plain = Settings::plain(self.sampler, noise);
        // what DDIM alone reads: the clean latent is kept within this
        Schedule::new(&Settings { clip: self.clip, ..plain }, STEPS).unwrap()
    }

    fn copies(&self) -> usize {
        if self.guidance.is_some() { 2 } else { 1 }
    }

    /// What the model says in step `i`.
    fn output(&self, i: usize) -> Vec<f32> {
        normals(50 + i as u64, self.copies() * self.len)
    }
}

struct OnDevice {
    cuda: Arc<Cuda>,
    run: Run,
    latent: Memory,
    output: Memory,
    sample: Memory,
    timestep: Memory,
    sampler: DeviceSampler,
}

impl OnDevice {
    fn new(cuda: &Arc<Cuda>, run: Run) -> Self {
        let schedule = run.schedule();
        let model = run.copies() * run.len * run.dtype.size_bytes();
        let sampler = DeviceSampler::new(cuda, schedule.rule(), STEPS, run.len).unwrap();
        sampler.set(&schedule.rows(), run.guidance.unwrap_or(0.0)).unwrap();
        let latent = cuda.alloc(4 * run.len).unwrap();
        cuda.upload(latent.address(), bytemuck::cast_slice(&normals(1, run.len))).unwrap();
        Self {
            cuda: cuda.clone(),
            run,
            latent,
            output: cuda.alloc(model).unwrap(),
            sample: cuda.alloc(model).unwrap(),
            timestep: cuda.alloc(4 * 3).unwrap(),
            sampler,
        }
    }

    fn buffers(&self) -> Buffers {
        Buffers {
            latent: self.latent.address(),
            len: self.run.len,
            output: self.output.address(),
            sample: self.sample.address(),
            dtype: self.run.dtype,
            copies: self.run.copies(),
            timestep: self.timestep.address(),
            timesteps: 3,
        }
    }

    fn set_output(&self, i: usize) {
        let (bytes, _) = stored(&self.run.output(i), self.run.dtype);
        self.cuda.upload(self.output.address(), &bytes).unwrap();
    }

    fn floats(&self, memory: &Memory) -> Vec<f32> {
        let mut v = vec![0.0f32; memory.bytes() / 4];
        self.cuda.download(memory.address(), bytemuck::cast_slice_mut(&mut v)).unwrap();
        v
    }

    /// The model's input must be `latent * factor`, once a copy.
    fn assert_input(&self, latent: &[f32], factor: f32, timestep: f32) {
        let scaled: Vec<f32> = latent.iter().map(|x| x * factor).collect();
        let (bytes, _) = stored(&scaled, self.run.dtype);
        let mut got = vec![0u8; self.sample.bytes()];
        self.cuda.download(self.sample.address(), &mut got).unwrap();
        assert_eq!(got, bytes.repeat(self.run.copies()), "{:?}", self.run);
        assert_eq!(self.floats(&self.timestep), vec![timestep; 3]);
    }
}

/// Whether two lists have the same bits.
fn assert_same(got: &[f32], want: &[f32], what: &str) {
    let differs = got.iter().zip(want).position(|(g, w)| g.to_bits() != w.to_bits());
    assert_eq!(differs.map(|i| (i, got[i], want[i])), None, "{what}");
}

/// The host's step with the output as the device stores it.
fn host_step(run: &Run, schedule: &mut Schedule, i: usize, latent: &mut [f32]) {
    let (_, mut output) = stored(&run.output(i), run.dtype);
    if let Some(guidance) = run.guidance {
        let (away, toward) = output.split_at_mut(run.len);
        scheduler::guide(guidance, away, toward);
    }
    schedule.step(i, latent, &output[..run.len]);
}

#[test]
fn every_rule_has_the_bits_of_the_host() {
    let mut turn = 0;
    for (sampler, clip) in [
        (Sampler::Euler, None),
        (Sampler::Ddim, None),
        (Sampler::Ddim, Some(0.8)),
        (Sampler::DpmPp, None),
    ] {
        for prediction in [Prediction::Epsilon, Prediction::Velocity] {
            for (dtype, guidance, len) in [
                (DType::F32, Some(7.5), 2 * 16 * 16 * 4),
                (DType::Bf16, Some(5.0), 1036),
                (DType::F16, None, 515),
            ] {
                turn += 1;
                let order = [Order::Early, Order::Late, Order::Random(turn)][turn as usize % 3];
                let cuda = Cuda::emulated(order).unwrap();
                let run = Run { sampler, prediction, dtype, guidance, len, clip };
                let (device, mut schedule) = (OnDevice::new(&cuda, run), run.schedule());
                let mut latent = normals(1, len);
                device.sampler.begin(&device.buffers()).unwrap();
                for i in 0..STEPS {
                    let timestep = schedule.timesteps()[i];
                    device.assert_input(&latent, schedule.input_factor(i), timestep);
                    device.set_output(i);
                    device.sampler.step(&device.buffers()).unwrap();
                    host_step(&run, &mut schedule, i, &mut latent);
                    assert_same(&device.floats(&device.latent), &latent, &format!("{run:?} {i}"));
                    assert_eq!(device.sampler.index().unwrap(), i + 1);
                }
                device.sampler.step(&device.buffers()).unwrap(); // one too many does nothing
                assert_same(&device.floats(&device.latent), &latent, "after the last step");
                assert_eq!(device.sampler.index().unwrap(), STEPS);
            }
        }
    }
}

#[test]
fn one_captured_step_is_every_step_and_serves_another_picture() {
    let cuda = Cuda::emulated(Order::Late).unwrap();
    let run = Run {
        sampler: Sampler::DpmPp,
        prediction: Prediction::Epsilon,
        dtype: DType::Bf16,
        guidance: Some(6.0),
        len: 320,
        clip: None,
    };
    let device = OnDevice::new(&cuda, run);
    let begin = cuda.capture(|| device.sampler.begin(&device.buffers())).unwrap();
    let step = cuda.capture(|| device.sampler.step(&device.buffers())).unwrap();
    for guidance in [6.0, 3.0] {
        let run = Run { guidance: Some(guidance), ..run };
        let mut schedule = run.schedule();
        device.sampler.set(&schedule.rows(), guidance).unwrap();
        let mut latent = normals(9, run.len);
        cuda.upload(device.latent.address(), bytemuck::cast_slice(&latent)).unwrap();
        begin.launch().unwrap();
        for i in 0..STEPS {
            device.set_output(i);
            step.launch().unwrap();
            host_step(&run, &mut schedule, i, &mut latent);
        }
        assert_same(&device.floats(&device.latent), &latent, "second picture");
    }
}

#[test]
fn wrong_tables_and_buffers_are_refused() {
    let cuda = Cuda::emulated(Order::Early).unwrap();
    let run = Run {
        sampler: Sampler::Euler,
        prediction: Prediction::Epsilon,
        dtype: DType::F32,
        guidance: None,
        len: 64,
        clip: None,
    };
    let device = OnDevice::new(&cuda, run);
    let error = device.sampler.set(&run.schedule().rows()[1..], 1.0).unwrap_err().to_string();
    assert!(error.contains("5 rows, expected 5 steps and 1"), "{error}");
    let good = device.buffers();
    for wrong in [
        Buffers { latent: good.latent + 4, ..good },
        Buffers { len: 65, ..good },
        Buffers { copies: 2, ..good },
    ] {
        assert!(device.sampler.step(&wrong).is_err(), "{wrong:?}");
    }
}
