//! AdamW on the emulated device: ten steps have the CPU's bits, also as a graph; a bad gradient stops the run.
#![allow(clippy::unwrap_used)]
#![cfg(feature = "emulate")]

use half::{bf16, f16};
use selvedge::{
    device::{Cuda, Memory, Schedule},
    kernels::{
        adamw::{AdamW, Buffers, Constants, DeviceAdamW, DeviceStep, Part, Scaling, StepState},
        ema, grad_norm,
    },
    tensor::{DType, philox},
};
use std::sync::Arc;

const LEN: usize = 13_001;
const STEPS: usize = 10;
const CLIP: f32 = 1.5;
const DECAY: f32 = 0.9;

fn parts() -> Vec<Part> {
    let slow = AdamW { weight_decay: 0.01, ..AdamW::default() };
    let fast = AdamW { beta1: 0.8, beta2: 0.99, eps: 1e-6, weight_decay: 0.0 };
    vec![
        Part { range: 0..9003, learning_rate: 1e-2, adamw: slow },
        Part { range: 9003..9010, learning_rate: 3e-3, adamw: fast },
        Part { range: 9010..LEN, learning_rate: 1e-2, adamw: slow },
    ]
}

fn factors() -> Vec<f64> {
    (0..STEPS).map(|i| (i + 1) as f64 / STEPS as f64 * 0.7).collect()
}

fn normals(seed: u64, scale: f32) -> Vec<f32> {
    let mut v = vec![0.0; LEN];
    philox::fill_normal(seed, 7, &mut v);
    v.iter().map(|x| x * scale).collect()
}

/// The gradient of step `i`: long in the even steps, so that clipping is off and on.
fn gradient(i: usize) -> Vec<f32> {
    normals(100 + i as u64, if i.is_multiple_of(2) { 0.1 } else { 1e-3 })
}

/// The reference: what `train::Optimizer` does on the CPU.
struct Host {
    master: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
    average: Vec<f32>,
}

impl Host {
    fn new() -> Self {
        let master = normals(1, 1.0);
        Self { first: vec![0.0; LEN], second: vec![0.0; LEN], average: master.clone(), master }
    }

    fn step(&mut self, step: usize, grad: Vec<f32>, passes: usize, averaged: bool) -> f32 {
        self.step_at(step, step, grad, passes, averaged)
    }

    /// Step `step` of the learning rate, number `made` of AdamW.
    fn step_at(
        &mut self,
        step: usize,
        made: usize,
        mut grad: Vec<f32>,
        passes: usize,
        averaged: bool,
    ) -> f32 {
        let mean = 1.0 / passes as f32;
        grad.iter_mut().for_each(|g| *g *= mean);
        let norm = grad_norm::clip(&mut grad, CLIP);
        for Part { range, learning_rate, adamw } in parts() {
            let rate = (f64::from(learning_rate) * factors()[step]) as f32;
            let state = StepState { step: made as u64, learning_rate: rate };
            let r = || range.clone();
            let weights = (&mut self.master[r()], &grad[r()]);
            let moments = (&mut self.first[r()], &mut self.second[r()]);
            adamw.step(state, weights, moments).unwrap();
        }
        if averaged {
            ema::update(&mut self.average, &self.master, ema::warm_decay(DECAY, made as u64));
        }
        norm
    }
}

/// Flat buffers on the device.
struct OnDevice {
    cuda: Arc<Cuda>,
    master: Memory,
    grad: Memory,
    first: Memory,
    second: Memory,
    average: Memory,
    shadow: Memory,
    start: Memory,
}

impl OnDevice {
    fn new(cuda: &Arc<Cuda>) -> Self {
        let floats = |v: &[f32]| {
            let memory = cuda.alloc(4 * LEN).unwrap();
            cuda.upload(memory.address(), bytemuck::cast_slice(v)).unwrap();
            memory
        };
        let zeros = vec![0.0; LEN];
        let master = normals(1, 1.0);
        Self {
            cuda: cuda.clone(),
            grad: floats(&zeros),
            first: floats(&zeros),
            second: floats(&zeros),
            average: floats(&master),
            master: floats(&master),
            shadow: cuda.alloc(2 * LEN).unwrap(),
            start: cuda.alloc(4).unwrap(),
        }
    }

    fn buffers(&self, averaged: bool, shadow: Option<DType>) -> Buffers {
        Buffers {
            master: self.master.address(),
            grad: self.grad.address(),
            first: self.first.address(),
            second: self.second.address(),
            average: averaged.then_some(self.average.address()),
            shadow: shadow.map(|t| (self.shadow.address(), t)),
            start: None,
        }
    }

    fn set_gradient(&self, grad: &[f32]) {
        self.cuda.upload(self.grad.address(), bytemuck::cast_slice(grad)).unwrap();
    }

    fn floats(&self, memory: &Memory) -> Vec<f32> {
        let mut v = vec![0.0; LEN];
        self.cuda.download(memory.address(), bytemuck::cast_slice_mut(&mut v)).unwrap();
        v
    }

    fn shadow_bits(&self) -> Vec<u16> {
        let mut v = vec![0u16; LEN];
        self.cuda.download(self.shadow.address(), bytemuck::cast_slice_mut(&mut v)).unwrap();
        v
    }
}

fn constants(passes: usize, averaged: bool) -> Constants {
    let decay = averaged.then_some(DECAY);
    Constants { len: LEN, passes, clip: CLIP, decay, factors: factors(), scaling: None }
}

fn assert_same(got: &[f32], want: &[f32], what: &str) {
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert_eq!(g.to_bits(), w.to_bits(), "{what}[{i}]: {g:e} {w:e}");
    }
}

#[test]
fn ten_steps_have_the_bits_of_the_cpu() {
    let schedules = [Schedule::Early, Schedule::Late, Schedule::Random(3)];
    let settings = [(1, true, None), (3, false, Some(DType::Bf16)), (4, true, Some(DType::F16))];
    for (schedule, (passes, averaged, shadow)) in schedules.into_iter().zip(settings) {
        let cuda = Cuda::emulated(schedule).unwrap();
        let (mut host, device) = (Host::new(), OnDevice::new(&cuda));
        let adamw = DeviceAdamW::new(&cuda, &parts(), &constants(passes, averaged)).unwrap();
        for step in 0..STEPS {
            device.set_gradient(&gradient(step));
            adamw.step(&device.buffers(averaged, shadow)).unwrap();
            let norm = host.step(step, gradient(step), passes, averaged);
            assert_eq!(adamw.state().unwrap().check().unwrap().norm, norm);
        }
        assert_eq!(adamw.state().unwrap().step as usize, STEPS);
        assert_same(&device.floats(&device.master), &host.master, "weights");
        assert_same(&device.floats(&device.first), &host.first, "first moments");
        assert_same(&device.floats(&device.second), &host.second, "second moments");
        assert_same(&device.floats(&device.average), &host.average, "average");
        let rounded = |x: &f32| match shadow {
            Some(DType::Bf16) => bf16::from_f32(*x).to_bits(),
            _ => f16::from_f32(*x).to_bits(),
        };
        if shadow.is_some() {
            let want: Vec<u16> = host.master.iter().map(rounded).collect();
            assert_eq!(device.shadow_bits(), want, "{shadow:?}");
        }
    }
}

#[test]
fn a_gradient_that_is_not_finite_stops_the_run_and_changes_nothing() {
    let cuda = Cuda::emulated(Schedule::Early).unwrap();
    for bad in [f32::NAN, f32::INFINITY] {
        let (device, buffers) = (OnDevice::new(&cuda), |d: &OnDevice| d.buffers(true, None));
        let adamw = DeviceAdamW::new(&cuda, &parts(), &constants(1, true)).unwrap();
        device.set_gradient(&gradient(0));
        adamw.step(&buffers(&device)).unwrap();
        let before = [&device.master, &device.first, &device.second, &device.average]
            .map(|m| device.floats(m));
        let mut broken = gradient(1);
        broken[LEN - 2] = bad;
        device.set_gradient(&broken);
        adamw.step(&buffers(&device)).unwrap();
        device.set_gradient(&gradient(2)); // a good one does not start it again
        adamw.step(&buffers(&device)).unwrap();
        let after = [&device.master, &device.first, &device.second, &device.average]
            .map(|m| device.floats(m));
        assert_eq!(before, after);
        let error = adamw.state().unwrap().check().unwrap_err().to_string();
        assert!(error.contains("step 2") && error.contains("not finite"), "{error}");
        assert_eq!((adamw.state().unwrap().step, adamw.state().unwrap().stopped), (1, 1));
    }
}

#[test]
fn one_captured_step_serves_every_step() {
    let cuda = Cuda::emulated(Schedule::Late).unwrap();
    let (mut host, device) = (Host::new(), OnDevice::new(&cuda));
    let adamw = DeviceAdamW::new(&cuda, &parts(), &constants(2, true)).unwrap();
    let graph = cuda.capture(|| adamw.step(&device.buffers(true, None))).unwrap();
    for step in 0..4 {
        device.set_gradient(&gradient(step));
        graph.launch().unwrap();
        host.step(step, gradient(step), 2, true);
    }
    assert_eq!(adamw.state().unwrap().step, 4);
    assert_same(&device.floats(&device.master), &host.master, "weights");
    assert_same(&device.floats(&device.average), &host.average, "average");
}

/// One captured step, which skips, halves and doubles by itself; the CPU's bits for what is not skipped.
#[test]
fn the_scale_moves_on_the_device() {
    let scaling = Scaling { initial: 64.0, interval: 2 };
    for schedule in [Schedule::Early, Schedule::Late, Schedule::Random(5)] {
        let cuda = Cuda::emulated(schedule).unwrap();
        let (mut host, device) = (Host::new(), OnDevice::new(&cuda));
        let constants = Constants { scaling: Some(scaling), ..constants(1, true) };
        let adamw = DeviceAdamW::new(&cuda, &parts(), &constants).unwrap();
        let start = Some(device.start.address());
        let buffers = Buffers { start, ..device.buffers(true, None) };
        let graph = cuda.capture(|| adamw.step(&buffers)).unwrap();
        let (mut scale, mut made, mut values) = (scaling.start(), 0, vec![]);
        let finite = [true, true, true, false, false, true, true, true];
        for (step, finite) in finite.into_iter().enumerate() {
            let mut grad: Vec<f32> = gradient(step).iter().map(|g| g * scale.value).collect();
            grad[LEN / 2] = if finite { grad[LEN / 2] } else { f32::INFINITY };
            device.set_gradient(&grad);
            graph.launch().unwrap();
            scale = scaling.after(scale, finite);
            let state = adamw.state().unwrap().check().unwrap();
            assert_eq!((state.scale, state.step as usize), (scale, step + 1));
            let mut start = [0f32];
            cuda.download(device.start.address(), bytemuck::cast_slice_mut(&mut start)).unwrap();
            assert_eq!(start[0], scale.value);
            values.push(scale.value);
            if finite {
                let norm = host.step_at(step, made, gradient(step), 1, true);
                assert_eq!(state.norm, norm);
                made += 1;
            }
        }
        assert_eq!(values, [64.0, 128.0, 128.0, 64.0, 32.0, 32.0, 64.0, 64.0]);
        assert_same(&device.floats(&device.master), &host.master, "weights");
        assert_same(&device.floats(&device.first), &host.first, "first moments");
        assert_same(&device.floats(&device.second), &host.second, "second moments");
        assert_same(&device.floats(&device.average), &host.average, "average");
    }
}

#[test]
fn a_run_goes_on_from_a_saved_step() {
    let cuda = Cuda::emulated(Schedule::Late).unwrap();
    let (mut host, device) = (Host::new(), OnDevice::new(&cuda));
    let adamw = DeviceAdamW::new(&cuda, &parts(), &constants(1, true)).unwrap();
    adamw.set_state(&DeviceStep { step: 6, seed: [3, 4], ..DeviceStep::default() }).unwrap();
    device.set_gradient(&gradient(6));
    adamw.step(&device.buffers(true, None)).unwrap();
    host.step(6, gradient(6), 1, true);
    assert_same(&device.floats(&device.master), &host.master, "weights");
    assert_same(&device.floats(&device.average), &host.average, "average");
    let state = adamw.state().unwrap();
    assert_eq!((state.step, state.seed), (7, [3, 4]));
    assert_eq!(state.factor, factors()[6] as f32);
}

#[test]
fn wrong_buffers_and_settings_are_refused() {
    let cuda = Cuda::emulated(Schedule::Early).unwrap();
    let device = OnDevice::new(&cuda);
    let adamw = DeviceAdamW::new(&cuda, &parts(), &constants(1, true)).unwrap();
    let good = device.buffers(true, None);
    for wrong in [
        Buffers { average: None, ..good },
        Buffers { master: good.master + 4, ..good },
        Buffers { shadow: Some((good.first, DType::F32)), ..good },
        Buffers { grad: good.grad + 16, ..good },
        Buffers { start: Some(device.start.address()), ..good },
    ] {
        assert!(adamw.step(&wrong).is_err(), "{wrong:?}");
    }
    let outside = Part { range: 5..LEN + 1, ..parts()[0].clone() };
    assert!(DeviceAdamW::new(&cuda, &[outside], &constants(1, true)).is_err());
    let none = Constants { factors: vec![], ..constants(1, true) };
    assert!(DeviceAdamW::new(&cuda, &parts(), &none).is_err());
    let many: Vec<Part> =
        (0..17u8).map(|i| Part { learning_rate: f32::from(i), ..parts()[0].clone() }).collect();
    let error = DeviceAdamW::new(&cuda, &many, &constants(1, true)).unwrap_err().to_string();
    assert!(error.contains("17 different settings"), "{error}");
}
