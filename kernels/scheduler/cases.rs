//! Steps of a sampler as an operation, for test and bench.

use super::{Buffers, DeviceSampler, Output, Row, Rule, SecondOrder, guide, step};
use crate::{
    device::{Cuda, Device, Memory},
    error::Result,
    kernels::{
        case::{Case, Fill},
        check,
    },
    op::{Backward, Cost, Forward, Keeps, Op, Signature},
    tensor::Spec,
};
use std::sync::{Arc, Mutex, PoisonError};

const OP: &str = "scheduler";
const GUIDANCE: f32 = 5.0;
/// Noise levels of the steps, as sigma; the last is where they lead.
const SIGMAS: [f64; 4] = [6.0, 3.5, 1.5, 0.5];

/// The start of a loop and some steps of it, all with the same output of the model. The saved value is the latent,
/// which they change in place; the output is the model's next input.
#[derive(Debug)]
struct Steps {
    kind: (Rule, Output),
    steps: usize,
    /// 2 with guidance, else 1.
    copies: usize,
    device: Mutex<Option<OnDevice>>,
}

#[derive(Debug)]
struct OnDevice {
    cuda: Arc<Cuda>,
    sampler: DeviceSampler,
    timestep: Memory,
}

impl Steps {
    fn rows(&self) -> Vec<Row> {
        let abar = |sigma: f64| 1.0 / (sigma * sigma + 1.0);
        let row = |i: usize| {
            let (here, next) = (SIGMAS[i], SIGMAS[(i + 1).min(SIGMAS.len() - 1)]);
            match self.kind.0 {
                Rule::Euler => Row::euler(here, next),
                Rule::Ddim => Row::ddim(abar(here), abar(next), (i % 2 == 1).then_some(1.5)),
                Rule::DpmPp => {
                    let kind = [SecondOrder::Midpoint, SecondOrder::Heun][i % 2];
                    Row::dpm(i.checked_sub(1).map(|b| SIGMAS[b]), here, next, kind)
                }
            }
        };
        (0..=self.steps).map(row).collect()
    }

    fn on_host(&self, io: &mut Forward<'_>) {
        let (output, rows) = (io.ins[0].f32(), self.rows());
        let latent = io.saved[0].f32();
        let mut previous = vec![0.0; latent.len()];
        let mut said = output[..latent.len()].to_vec();
        if self.copies == 2 {
            guide(GUIDANCE, &mut said, &output[latent.len()..]);
        }
        for row in &rows[..self.steps] {
            step(self.kind, row, latent, &mut previous, &said);
        }
        for copy in io.out.f32().chunks_exact_mut(latent.len().max(1)) {
            copy.iter_mut().zip(&*latent).for_each(|(o, x)| *o = x * rows[self.steps].input);
        }
    }

    fn on_device(&self, cuda: &Arc<Cuda>, io: &Forward<'_>) -> Result<()> {
        let mut device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
        let len = io.out_spec.len() / self.copies;
        let own = match device.take().filter(|d| Arc::ptr_eq(&d.cuda, cuda)) {
            Some(kept) => device.insert(kept),
            None => {
                let sampler = DeviceSampler::new(cuda, self.kind, self.steps, len)?;
                sampler.set(&self.rows(), GUIDANCE)?;
                let timestep = cuda.alloc(size_of::<f32>())?;
                device.insert(OnDevice { cuda: cuda.clone(), sampler, timestep })
            }
        };
        let buffers = Buffers {
            latent: io.saved[0].address(),
            len,
            output: io.ins[0].address(),
            sample: io.out.address(),
            dtype: io.out_spec.dtype,
            copies: self.copies,
            timestep: own.timestep.address(),
            timesteps: 1,
        };
        own.sampler.begin(&buffers)?;
        (0..self.steps).try_for_each(|_| own.sampler.step(&buffers))
    }
}

impl Op for Steps {
    fn name(&self) -> &'static str {
        OP
    }

    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        let dtype = check::float_inputs(OP, ins, &["output"])?;
        if !ins[0].len().is_multiple_of(self.copies) {
            let want = format!("{} equal parts", self.copies);
            return Err(check::shape(OP, "output", &ins[0], want));
        }
        let latent = Spec::f32(&[ins[0].len() / self.copies]);
        let out = Spec::new(&[ins[0].len()], dtype);
        Ok(Signature { saved: vec![latent], ..Signature::of(out) })
    }

    fn forward_only(&self) -> Option<&'static str> {
        Some("a sampler changes its latent in place, expected outside training")
    }

    fn keeps(&self, _: &[bool]) -> Keeps {
        Keeps::default()
    }

    /// The start reads the latent and writes the model's input; a step reads the output too and writes the latent.
    fn cost(&self, ins: &[Spec], out: &Spec) -> Cost {
        let (latent, steps) = ((out.len() / self.copies) as f64, self.steps as f64);
        let begin = 4.0 * latent + out.bytes() as f64;
        let step = 8.0 * latent + (ins[0].bytes() + out.bytes()) as f64;
        Cost { flop: latent * (1.0 + 8.0 * steps), bytes: begin + steps * step }
    }

    fn forward(&self, mut io: Forward<'_>) -> Result<()> {
        match io.device {
            Device::Cpu => self.on_host(&mut io),
            Device::Cuda(cuda) => return self.on_device(cuda, &io),
        }
        Ok(())
    }

    fn backward(&self, _: Backward<'_>) -> Result<()> {
        Ok(())
    }
}

fn case(kind: (Rule, Output), steps: usize, copies: usize, len: usize) -> Case {
    let (rule, output) = kind;
    Case {
        name: format!("scheduler {rule:?} {output:?} [{copies}, {len}] start and {steps} steps"),
        op: Arc::new(Steps { kind, steps, copies, device: Mutex::default() }),
        ins: vec![Spec::f32(&[copies * len])],
        data: vec![Fill::Normal(1.0)],
        grads: vec![false],
        state: vec![Fill::Normal(5.0)],
    }
}

/// Every rule and kind of output over three steps, with guidance and without, ragged and whole accesses.
pub fn cases() -> Vec<Case> {
    let mut all = vec![];
    for rule in [Rule::Euler, Rule::Ddim, Rule::DpmPp] {
        for output in [Output::Noise, Output::Velocity] {
            all.extend([case((rule, output), 3, 2, 1036), case((rule, output), 3, 1, 515)]);
        }
    }
    all
}

/// One step of an SDXL latent with guidance, after the start of the loop.
pub fn bench_cases() -> Vec<Case> {
    let rules = [Rule::Euler, Rule::Ddim, Rule::DpmPp];
    rules.map(|rule| case((rule, Output::Noise), 1, 2, 128 * 128 * 4)).into()
}
