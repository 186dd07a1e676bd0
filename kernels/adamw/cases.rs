//! A step of the optimizer as an operation, for test and bench.

use super::{AdamW, Buffers, Constants, DeviceAdamW, DeviceStep, Part, Scaling, StepState};
use crate::{
    device::{Cuda, Device, Memory},
    error::Result,
    kernels::{
        case::{Case, Fill},
        check, ema, grad_norm,
    },
    op::{Backward, Cost, Forward, Keeps, Op, Signature},
    tensor::{DType, Spec},
};
use std::{
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

const CLIP: f32 = 1.5;
const DECAY: f32 = 0.9;
/// The learning rate of the only step: a warm-up's, so that the factor counts.
const FACTOR: f64 = 0.7;

/// The first step of a run. The saved values are its state: weights, first and second moments, moving average.
/// The output is the norm of the gradient, or the shadow of the weights where there is one.
///
/// What is launched is [`DeviceAdamW::step`]; the state it keeps for itself is set back before, by a copy.
#[derive(Debug)]
pub struct Step {
    name: &'static str,
    parts: Vec<Part>,
    averaged: bool,
    shadow: Option<DType>,
    scaling: Option<Scaling>,
    device: Mutex<Option<(Arc<Cuda>, OnDevice)>>,
}

/// The optimizer with the state before its first step, and what the gradient of a scaled loss starts from.
#[derive(Debug)]
struct OnDevice {
    adamw: DeviceAdamW,
    first: Memory,
    start: Memory,
}

impl OnDevice {
    fn new(cuda: &Arc<Cuda>, parts: &[Part], constants: &Constants) -> Result<Self> {
        let adamw = DeviceAdamW::new(cuda, parts, constants)?;
        let first = cuda.alloc(size_of::<DeviceStep>())?;
        cuda.copy(first.address(), adamw.state_address(), first.bytes())?;
        Ok(Self { adamw, first, start: cuda.alloc(size_of::<f32>())? })
    }
}

impl Step {
    fn new(parts: Vec<Part>, averaged: bool, shadow: Option<DType>) -> Self {
        let scaling = None;
        Self { name: "adamw", parts, averaged, shadow, scaling, device: Mutex::default() }
    }

    /// Nothing is trained: only the norm is left of the step.
    pub fn norm() -> Self {
        Self { name: "grad_norm", ..Self::new(vec![], false, None) }
    }

    fn constants(&self, len: usize) -> Constants {
        let decay = self.averaged.then_some(DECAY);
        let scaling = self.scaling;
        Constants { len, passes: 1, clip: CLIP, decay, factors: vec![FACTOR], scaling }
    }

    fn on_host(&self, mut io: Forward<'_>) -> Result<()> {
        let mut grad = io.ins[0].f32().to_vec();
        let scale = self.scaling.map_or(1.0, |s| s.initial);
        grad.iter_mut().for_each(|g| *g /= scale);
        let norm = grad_norm::clip(&mut grad, CLIP);
        if let [master, first, second, rest @ ..] = &mut io.saved[..] {
            for Part { range, learning_rate, adamw } in &self.parts {
                let r = || range.clone();
                let learning_rate = (f64::from(*learning_rate) * FACTOR) as f32;
                let weights = (&mut master.f32()[r()], &grad[r()]);
                let moments = (&mut first.f32()[r()], &mut second.f32()[r()]);
                let state = StepState { step: 0, learning_rate };
                adamw.step(state, weights, moments)?;
            }
            if let Some(average) = rest.first_mut() {
                ema::update(average.f32(), master.f32(), ema::warm_decay(DECAY, 0));
            }
            if let Some(dtype) = self.shadow {
                io.out.raw().copy_from_slice(&dtype.encode(master.f32()));
                return Ok(());
            }
        }
        io.out.f32()[0] = norm;
        Ok(())
    }

    fn on_device(&self, cuda: &Arc<Cuda>, io: &Forward<'_>) -> Result<()> {
        let mut device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, own) = match device.take().filter(|(own, _)| Arc::ptr_eq(own, cuda)) {
            Some(kept) => device.insert(kept),
            None => {
                let made = OnDevice::new(cuda, &self.parts, &self.constants(io.specs[0].len()))?;
                device.insert((cuda.clone(), made))
            }
        };
        let state = |i: usize| io.saved.get(i).map(|b| b.address());
        let buffers = Buffers {
            master: state(0).unwrap_or(0),
            grad: io.ins[0].address(),
            first: state(1).unwrap_or(0),
            second: state(2).unwrap_or(0),
            average: state(3),
            shadow: self.shadow.map(|dtype| (io.out.address(), dtype)),
            start: self.scaling.map(|_| own.start.address()),
        };
        cuda.copy(own.adamw.state_address(), own.first.address(), own.first.bytes())?;
        own.adamw.step(&buffers)?;
        if self.shadow.is_some() {
            return Ok(());
        }
        let norm = own.adamw.state_address() + std::mem::offset_of!(DeviceStep, norm) as u64;
        cuda.copy(io.out.address(), norm, size_of::<f32>())
    }
}

impl Op for Step {
    fn name(&self) -> &'static str {
        self.name
    }

    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        check::f32_inputs(self.name, ins, &["gradient"])?;
        let flat = Spec::f32(&[ins[0].len()]);
        let state = if self.parts.is_empty() { 0 } else { 3 + usize::from(self.averaged) };
        let out = match self.shadow {
            Some(dtype) => Spec::new(&flat.dims, dtype),
            None => Spec::f32(&[1]),
        };
        Ok(Signature { saved: vec![flat; state], ..Signature::of(out) })
    }

    fn types(&self) -> &'static [DType] {
        &[DType::F32]
    }

    fn forward_only(&self) -> Option<&'static str> {
        Some("the optimizer changes the weights in place, expected only after the backward pass")
    }

    fn keeps(&self, _: &[bool]) -> Keeps {
        Keeps::default()
    }

    /// The gradient is read twice, once for its norm; weights, moments and average are read and written.
    fn cost(&self, ins: &[Spec], out: &Spec) -> Cost {
        let (all, trained) =
            (ins[0].len(), self.parts.iter().map(|p| p.range.len()).sum::<usize>());
        let values = 3 + usize::from(self.averaged);
        let shadow = if self.shadow.is_some() { out.bytes() } else { 0 };
        Cost {
            flop: (3 * all + (14 + 3 * usize::from(self.averaged)) * trained) as f64,
            bytes: (4 * all + 4 * (1 + 2 * values) * trained + shadow) as f64,
        }
    }

    fn forward(&self, io: Forward<'_>) -> Result<()> {
        match io.device {
            Device::Cpu => self.on_host(io),
            Device::Cuda(cuda) => self.on_device(cuda, &io),
        }
    }

    fn backward(&self, _: Backward<'_>) -> Result<()> {
        Ok(())
    }
}

fn part(range: Range<usize>, learning_rate: f32, adamw: AdamW) -> Part {
    Part { range, learning_rate, adamw }
}

fn case(len: usize, parts: Vec<Part>, averaged: bool, shadow: Option<DType>) -> Case {
    let mut name = format!("adamw [{len}] in {} parts", parts.len());
    name += if averaged { " with average" } else { "" };
    name += &shadow.map_or(String::new(), |t| format!(" with {t} shadow"));
    let state = [Fill::Normal(1.0), Fill::Normal(0.1), Fill::Uniform(0.0, 0.1), Fill::Normal(1.0)];
    Case {
        name,
        op: Arc::new(Step::new(parts, averaged, shadow)),
        ins: vec![Spec::f32(&[len])],
        data: vec![Fill::Normal(0.1)],
        grads: vec![false],
        state: state[..3 + usize::from(averaged)].to_vec(),
    }
}

/// The same with a loss that was scaled by 4.
fn scaled(len: usize, parts: Vec<Part>) -> Case {
    let plain = case(len, parts.clone(), false, None);
    let step = Step { scaling: Some(Scaling::fixed(4.0)), ..Step::new(parts, false, None) };
    Case { name: format!("{} of a scaled loss", plain.name), op: Arc::new(step), ..plain }
}

/// Two settings that change off the 16 bytes of an access, with and without average and shadow, a scaled loss; one number.
pub fn cases() -> Vec<Case> {
    let fast = AdamW { beta1: 0.8, beta2: 0.99, eps: 1e-6, weight_decay: 0.0 };
    let slow = AdamW { weight_decay: 0.01, ..AdamW::default() };
    let parts = || {
        vec![
            part(0..9003, 1e-2, slow),
            part(9003..9010, 3e-3, fast),
            part(9010..13_002, 1e-2, slow),
        ]
    };
    vec![
        case(13_002, parts(), false, None),
        case(13_002, parts(), true, None),
        case(13_002, parts(), true, Some(DType::Bf16)),
        case(13_002, parts(), false, Some(DType::F16)),
        scaled(13_002, parts()),
        case(1, vec![part(0..1, 1e-2, slow)], true, None),
    ]
}

/// Adapters of rank 32 of SDXL's U-Net, as they are trained.
pub fn bench_cases() -> Vec<Case> {
    let parts = || vec![part(0..SDXL_RANK_32, 1e-4, AdamW::default())];
    vec![case(SDXL_RANK_32, parts(), false, None), case(SDXL_RANK_32, parts(), true, None)]
}

/// Trained parameters of SDXL's U-Net with adapters of rank 32.
pub const SDXL_RANK_32: usize = 46_448_640;
