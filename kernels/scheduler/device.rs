//! Launches of `scheduler.cu`.

use super::{Output, Row, Rule};
use crate::{
    device::{Cuda, Memory, Touched},
    error::{Error, Result},
    kernels::columns::{Symbols, by_width},
    tensor::DType,
};
use std::sync::Arc;

const OP: &str = "scheduler";
const STEP: Symbols = by_width!("scheduler_step");
const INPUT: Symbols = by_width!("scheduler_input");

#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
struct State {
    index: u32,
    steps: u32,
    guidance: f32,
    unused: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Args {
    state: u64,
    rows: u64,
    latent: u64,
    previous: u64,
    output: u64,
    sample: u64,
    timestep: u64,
    len: u64,
    rule: i32,
    velocity: i32,
    copies: i32,
    timesteps: i32,
}

/// Where a loop's values lie on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffers {
    /// f32 latents, `len` numbers.
    pub latent: u64,
    /// Elements of all latents together.
    pub len: usize,
    /// The model's output, `copies * len` numbers of `dtype`; with guidance away, then toward.
    pub output: u64,
    /// The model's input, as long.
    pub sample: u64,
    /// Storage type of output and input.
    pub dtype: DType,
    /// 2 with guidance, else 1.
    pub copies: usize,
    /// f32 timesteps that the model is told, `timesteps` equal numbers.
    pub timestep: u64,
    /// How many.
    pub timesteps: usize,
}

/// A sampler on a device: index, guidance and coefficients in device memory.
///
/// [`DeviceSampler::begin`], then the model and [`DeviceSampler::step`] in turn, each of which only
/// launches kernels: one step can be captured and replayed, or a whole loop at once. For another
/// picture with the same number of steps [`DeviceSampler::set`] changes the table under a captured
/// graph.
#[derive(Debug)]
pub struct DeviceSampler {
    cuda: Arc<Cuda>,
    rule: Rule,
    predicts: Output,
    steps: usize,
    table: Memory,
    previous: Option<Memory>,
}

impl DeviceSampler {
    /// A sampler of `steps` steps for latents of `len` numbers in all.
    ///
    /// # Errors
    /// Those of the device.
    pub fn new(
        cuda: &Arc<Cuda>,
        (rule, predicts): (Rule, Output),
        steps: usize,
        len: usize,
    ) -> Result<Self> {
        let table = cuda.alloc(size_of::<State>() + (steps + 1) * size_of::<Row>())?;
        let previous = match rule {
            Rule::DpmPp => Some(cuda.alloc(len * size_of::<f32>())?),
            _ => None,
        };
        Ok(Self { cuda: cuda.clone(), rule, predicts, steps, table, previous })
    }

    /// Uploads the coefficients, one row a step and one for the end (of which `input` and
    /// `timestep` are used), and the guidance scale.
    ///
    /// # Errors
    /// [`Error::Plan`] for another number of rows; those of the device.
    pub fn set(&self, rows: &[Row], guidance: f32) -> Result<()> {
        if rows.len() != self.steps + 1 {
            let problem = format!("{} rows, expected {} steps and 1", rows.len(), self.steps);
            return Err(Error::Plan { at: OP.into(), problem });
        }
        let steps = u32::try_from(self.steps).unwrap_or(u32::MAX);
        let state = State { steps, guidance, ..State::default() };
        let bytes = [bytemuck::bytes_of(&state), bytemuck::cast_slice(rows)].concat();
        self.cuda.upload(self.table.address(), &bytes)
    }

    /// Steps done, after everything launched so far.
    ///
    /// # Errors
    /// Those of the device.
    pub fn index(&self) -> Result<usize> {
        let mut state = State::default();
        self.cuda.download(self.table.address(), bytemuck::bytes_of_mut(&mut state))?;
        Ok(state.index as usize)
    }

    /// Launches the start: index 0, first input of the model and its timestep.
    ///
    /// # Errors
    /// [`Error::Plan`] for a buffer outside the live allocations or addresses off 16 bytes; those
    /// of the device.
    pub fn begin(&self, b: &Buffers) -> Result<()> {
        self.single("scheduler_begin", b)?;
        self.sweep(INPUT, b)
    }

    /// Launches one step: guidance, update, next input, next timestep and index. After the last
    /// step it does nothing.
    ///
    /// # Errors
    /// As [`DeviceSampler::begin`].
    pub fn step(&self, b: &Buffers) -> Result<()> {
        self.sweep(STEP, b)?;
        self.single("scheduler_advance", b)
    }

    fn args(&self, b: &Buffers) -> Result<Args> {
        let all = [b.latent, b.output, b.sample, b.timestep];
        if all.iter().any(|a| !a.is_multiple_of(16)) {
            let problem = format!("addresses {all:x?}, expected multiples of 16");
            return Err(Error::Plan { at: OP.into(), problem });
        }
        Ok(Args {
            state: self.table.address(),
            rows: self.table.address() + size_of::<State>() as u64,
            latent: b.latent,
            previous: self.previous.as_ref().map_or(0, Memory::address),
            output: b.output,
            sample: b.sample,
            timestep: b.timestep,
            len: b.len as u64,
            rule: self.rule as i32,
            velocity: i32::from(self.predicts == Output::Velocity),
            copies: if b.copies == 2 { 2 } else { 1 },
            timesteps: i32::try_from(b.timesteps).unwrap_or(i32::MAX),
        })
    }

    fn touches(&self, b: &Buffers) -> Vec<Touched> {
        let floats = |n: usize| n * size_of::<f32>();
        let model = if b.copies == 2 { 2 * b.len } else { b.len } * b.dtype.size_bytes();
        let mut touches = vec![
            Touched { what: "table", address: self.table.address(), bytes: self.table.bytes() },
            Touched { what: "latent", address: b.latent, bytes: floats(b.len) },
            Touched { what: "output", address: b.output, bytes: model },
            Touched { what: "sample", address: b.sample, bytes: model },
            Touched { what: "timestep", address: b.timestep, bytes: floats(b.timesteps) },
        ];
        let bytes = floats(b.len);
        let previous = self.previous.as_ref();
        touches.extend(previous.map(|p| Touched { what: "estimate", address: p.address(), bytes }));
        touches
    }

    /// A pass over the latents.
    fn sweep(&self, symbols: Symbols, b: &Buffers) -> Result<()> {
        if b.len == 0 {
            return Ok(());
        }
        let symbol = symbols.of(b.len.is_multiple_of(4), b.dtype);
        let kernel = self.cuda.kernel::<Args>(OP, symbol)?;
        let blocks = b.len.div_ceil(kernel.tile().block_cols as usize);
        self.cuda.launch(&kernel, [blocks as u64, 1, 1], &self.args(b)?, &self.touches(b))
    }

    /// One block.
    fn single(&self, symbol: &'static str, b: &Buffers) -> Result<()> {
        let kernel = self.cuda.kernel::<Args>(OP, symbol)?;
        self.cuda.launch(&kernel, [1; 3], &self.args(b)?, &self.touches(b))
    }
}
