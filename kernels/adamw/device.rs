//! AdamW over flat buffers in device memory: three launches a step and nothing per step in their
//! arguments, so one captured graph serves every step.

use super::{
    Scale, Scaling,
    pieces::{KINDS, Part, Settings, cut},
};
use crate::{
    device::{Cuda, Effort, Memory, Touched},
    error::{Error, Result},
    kernels::{grad_norm, variant},
    tensor::DType,
};
use bytemuck::Zeroable as _;
use std::sync::Arc;

const OP: &str = "adamw";
const UPDATE: [&str; 3] = ["adamw_update", "adamw_update_bf16", "adamw_update_f16"];

/// What changes from step to step, as it lies on the device. The host writes it once a run; every
/// step reads it, and [`DeviceAdamW::step`] moves it on.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct DeviceStep {
    /// Optimizer steps done, skipped ones included.
    pub step: u32,
    /// 1 after a gradient that was not finite, without scaling: no step changes anything any more.
    pub stopped: u32,
    /// For the random numbers of a step; the optimizer leaves it alone.
    pub seed: [u32; 2],
    /// Norm of the last mean gradient before clipping.
    pub norm: f32,
    /// What the mean gradient was multiplied by: 1, or less where it was too long.
    pub clip: f32,
    /// Factor of the learning rate in the last step.
    pub factor: f32,
    /// 1 - decay of the moving average in the last step.
    pub fresh: f32,
    /// Where the scale of the loss stands; all 0 without scaling.
    pub scale: Scale,
    /// What the last gradient was multiplied by to be the mean: 1 / passes / scale.
    pub unit: f32,
    /// Nothing: the factors begin on 16 bytes.
    pub unused: [u32; 3],
    /// Factors of the last step for each kind of settings.
    pub kinds: [[f32; 8]; KINDS],
}

impl DeviceStep {
    /// This state, unless it stands still.
    ///
    /// # Errors
    /// [`Error::Data`] when the gradient was not finite and the loss is not scaled: the weights are those before
    /// that step.
    pub fn check(self) -> Result<Self> {
        if self.stopped == 0 {
            return Ok(self);
        }
        Err(Error::Data {
            at: format!("step {}", self.step + 1),
            found: "a gradient that is not finite".into(),
            expected: "finite numbers".into(),
            fix: "lower train.learning_rate, or check the weights".into(),
        })
    }
}

/// Constants of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Constants {
    /// Elements of the flat buffers.
    pub len: usize,
    /// Passes whose gradients are added up in one step.
    pub passes: usize,
    /// Largest norm of the mean gradient; 0 does not clip.
    pub clip: f32,
    /// Decay of the moving average, where there is one.
    pub decay: Option<f32>,
    /// Factor of the learning rates in each step; the last one stays.
    pub factors: Vec<f64>,
    /// How the loss is scaled, where it is.
    pub scaling: Option<Scaling>,
}

/// Addresses of the flat buffers, each on 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffers {
    /// f32 weights.
    pub master: u64,
    /// f32 gradient, the sum over the passes; only read.
    pub grad: u64,
    /// f32 first moments.
    pub first: u64,
    /// f32 second moments.
    pub second: u64,
    /// f32 moving average; needed where [`Constants::decay`] is set.
    pub average: Option<u64>,
    /// Where the weights are also written in a 16-bit type.
    pub shadow: Option<(u64, DType)>,
    /// What the gradient of the loss starts from: one f32, the scale; needed where [`Constants::scaling`] is set.
    pub start: Option<u64>,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
struct PrepareArgs {
    state: u64,
    squares: u64,
    factors: u64,
    start: u64,
    parts: i32,
    factor_count: i32,
    kinds: i32,
    limit: f32,
    decay: f32,
    interval: i32,
    mean: f32,
    unused: i32,
    settings: [Settings; KINDS],
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct UpdateArgs {
    state: u64,
    pieces: u64,
    master: u64,
    grad: u64,
    first: u64,
    second: u64,
    average: u64,
    shadow: u64,
}

/// The optimizer of one run on a device: its state, its tables and nothing as large as the weights.
///
/// The same formulas, operations and order as [`AdamW::step`], clipping and the moving average on
/// the CPU.
#[derive(Debug)]
pub struct DeviceAdamW {
    cuda: Arc<Cuda>,
    state: Memory,
    squares: Memory,
    factors: Memory,
    pieces: Memory,
    piece_count: usize,
    len: usize,
    averaged: bool,
    scaling: Option<Scaling>,
    prepare: PrepareArgs,
}

fn interval(scaling: Option<Scaling>) -> i32 {
    scaling.map_or(0, |s| i32::try_from(s.interval).unwrap_or(i32::MAX))
}

fn stored(cuda: &Arc<Cuda>, data: &[u8]) -> Result<Memory> {
    let memory = cuda.alloc(data.len())?;
    cuda.upload(memory.address(), data)?;
    Ok(memory)
}

impl DeviceAdamW {
    /// An optimizer at step 0 for buffers of `constants.len` elements, of which `parts` are
    /// trained.
    ///
    /// # Errors
    /// [`Error::Plan`] for a part outside the buffers, no factors or more than 16 different
    /// settings; those of the device.
    pub fn new(cuda: &Arc<Cuda>, parts: &[Part], constants: &Constants) -> Result<Self> {
        let plan = |problem: String| Error::Plan { at: OP.into(), problem };
        if let Some(p) = parts.iter().find(|p| p.range.end > constants.len) {
            let problem = format!("elements {:?}, expected ends up to {}", p.range, constants.len);
            return Err(plan(problem));
        }
        if constants.factors.is_empty() {
            return Err(plan("no factor of the learning rate, expected one a step".into()));
        }
        let (kinds, pieces) = cut(parts)?;
        let mut settings = [Settings::zeroed(); KINDS];
        settings[..kinds.len()].copy_from_slice(&kinds);
        let scale = constants.scaling.map(|s| s.start()).unwrap_or_default();
        let first = DeviceStep { scale, ..DeviceStep::default() };
        let state = stored(cuda, bytemuck::bytes_of(&first))?;
        let squares = cuda.alloc(grad_norm::SQUARES_BYTES)?;
        let factors = stored(cuda, bytemuck::cast_slice(&constants.factors))?;
        let prepare = PrepareArgs {
            state: state.address(),
            squares: squares.address(),
            factors: factors.address(),
            start: 0,
            parts: 0,
            factor_count: i32::try_from(constants.factors.len()).unwrap_or(i32::MAX),
            kinds: kinds.len() as i32,
            limit: constants.clip,
            decay: constants.decay.unwrap_or(0.0),
            interval: interval(constants.scaling),
            mean: 1.0 / constants.passes.max(1) as f32,
            unused: 0,
            settings,
        };
        Ok(Self {
            cuda: cuda.clone(),
            state,
            squares,
            factors,
            pieces: stored(cuda, bytemuck::cast_slice(&pieces))?,
            piece_count: pieces.len(),
            len: constants.len,
            averaged: constants.decay.is_some(),
            scaling: constants.scaling,
            prepare,
        })
    }

    fn scale_address(&self) -> u64 {
        self.state.address() + std::mem::offset_of!(DeviceStep, scale) as u64
    }

    /// Where the [`DeviceStep`] lies.
    pub fn state_address(&self) -> u64 {
        self.state.address()
    }

    /// The state after everything launched so far; with a scaled loss its norm is not finite where the last update was
    /// skipped.
    ///
    /// # Errors
    /// Those of the device.
    pub fn state(&self) -> Result<DeviceStep> {
        let mut state = DeviceStep::default();
        self.cuda.download(self.state.address(), bytemuck::bytes_of_mut(&mut state))?;
        Ok(state)
    }

    /// Sets the state: the step to go on from, the seed, the scale (which [`Buffers::start`] has to hold too).
    ///
    /// # Errors
    /// Those of the device.
    pub fn set_state(&self, state: &DeviceStep) -> Result<()> {
        self.cuda.upload(self.state.address(), bytemuck::bytes_of(state))
    }

    /// Launches one step: norm, factors and clipping, update. It neither waits nor copies, so it
    /// can be captured.
    ///
    /// # Errors
    /// [`Error::Plan`] for an address that is not on 16 bytes or a buffer outside the live
    /// allocations, or an average or a start missing or given without its constant; those of the device.
    pub fn step(&self, buffers: &Buffers) -> Result<()> {
        self.check(buffers)?;
        let (squares, grad) = (self.squares.address(), (buffers.grad, self.len));
        let scale = self.scaling.map(|_| self.scale_address());
        let mean = (self.prepare.mean, scale);
        let squares = grad_norm::squares_on(&self.cuda, grad, mean, squares)?;
        self.prepare(squares, buffers.start)?;
        if self.piece_count == 0 {
            return Ok(());
        }
        self.update(buffers)
    }

    fn check(&self, b: &Buffers) -> Result<()> {
        let shadow = b.shadow.map_or(0, |(address, _)| address);
        let all = [b.master, b.grad, b.first, b.second, b.average.unwrap_or(0), shadow];
        let problem = if all.iter().any(|a| !a.is_multiple_of(16)) {
            format!("addresses {all:x?}, expected multiples of 16")
        } else if b.average.is_some() != self.averaged {
            "a moving average needs both a decay and a buffer".into()
        } else if b.start.is_some() != self.scaling.is_some() {
            "a scaled loss needs both a scaling and what its gradient starts from".into()
        } else if b.shadow.is_some_and(|(_, t)| t.size_bytes() != 2) {
            "a shadow of the weights in bf16 or f16 expected".into()
        } else {
            return Ok(());
        };
        Err(Error::Plan { at: OP.into(), problem })
    }

    fn prepare(&self, squares: grad_norm::Squares, start: Option<u64>) -> Result<()> {
        let kernel = self.cuda.kernel::<PrepareArgs>(OP, "adamw_prepare")?;
        let (parts, at) = (squares.parts as i32, start.unwrap_or(0));
        let args = PrepareArgs { parts, start: at, ..self.prepare };
        let touch = |what, memory: &Memory| Touched {
            what,
            address: memory.address(),
            bytes: memory.bytes(),
        };
        let mut touches = vec![
            touch("state", &self.state),
            touch("partial sums", &self.squares),
            touch("factors", &self.factors),
        ];
        let one =
            |address| Touched { what: "start of the gradient", address, bytes: size_of::<f32>() };
        touches.extend(start.map(one));
        self.cuda.launch(&kernel, [1; 3], &args, &touches)
    }

    fn update(&self, b: &Buffers) -> Result<()> {
        let (shadow, dtype) = b.shadow.unwrap_or((0, DType::F32));
        let args = UpdateArgs {
            state: self.state.address(),
            pieces: self.pieces.address(),
            master: b.master,
            grad: b.grad,
            first: b.first,
            second: b.second,
            average: b.average.unwrap_or(0),
            shadow,
        };
        let floats = |what, address| Touched { what, address, bytes: self.len * size_of::<f32>() };
        let mut touches = vec![
            Touched { what: "state", address: args.state, bytes: self.state.bytes() },
            Touched { what: "pieces", address: args.pieces, bytes: self.pieces.bytes() },
            floats("weights", b.master),
            floats("gradient", b.grad),
            floats("first moments", b.first),
            floats("second moments", b.second),
        ];
        touches.extend(b.average.map(|a| floats("average", a)));
        let bytes = self.len * dtype.size_bytes();
        touches.extend(b.shadow.map(|(address, _)| Touched { what: "shadow", address, bytes }));
        // weights and both moments are read and written, the gradient is read
        let average = if b.average.is_some() { 2 } else { 0 };
        let shadow_bytes = if b.shadow.is_some() { bytes } else { 0 };
        let moved = (7 + average) * self.len * size_of::<f32>() + shadow_bytes;
        let effort = Effort::pass(self.piece_count as u64, moved as f64, 0.0);
        let kernel = self.cuda.kernel::<UpdateArgs>(OP, variant::by_dtype(dtype, UPDATE))?;
        let kernel = kernel.taking(effort);
        self.cuda.launch(&kernel, [self.piece_count as u64, 1, 1], &args, &touches)
    }
}
