//! The contract every kernel folder fulfils: shapes, what backward reads, cost, forward, backward.
//!
//! An operation has one output; further results of forward that only backward reads are *saved* values.
//! It may not allocate: [`Signature`] says what it saves and what scratch it needs. Which gradients
//! are computed, and whether they overwrite or add, is decided by the plan and arrives as [`GradMode`].

use crate::{
    device::{Cuda, Device},
    error::Result,
    tensor::{DType, Spec},
};

pub use crate::device::{Buf, BufMut};

/// What an operation produces and needs.
#[derive(Clone, Debug)]
pub struct Signature {
    /// The output.
    pub out: Spec,
    /// Written by forward, read only by backward.
    pub saved: Vec<Spec>,
    /// Scratch of forward, bytes.
    pub forward_scratch: usize,
    /// Scratch of backward, bytes.
    pub backward_scratch: usize,
}

impl Signature {
    /// An operation that saves nothing and needs no scratch.
    pub fn of(out: Spec) -> Self {
        Self { out, saved: vec![], forward_scratch: 0, backward_scratch: 0 }
    }
}

/// Which forward values backward will read; the rest die early.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keeps {
    /// Input indices.
    pub ins: Vec<usize>,
    /// Whether the output is read.
    pub out: bool,
    /// Whether the saved values are read.
    pub saved: bool,
}

/// Work of one call: the roofline.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Floating-point operations, 2 per multiply-add.
    pub flop: f64,
    /// Bytes that must move, each operand once.
    pub bytes: f64,
}

/// How to write one input gradient; chosen by the plan, never by the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GradMode {
    /// Not wanted: leave the buffer alone.
    Skip,
    /// First writer.
    Overwrite,
    /// Later writer: add.
    Accumulate,
}

/// Buffers of one forward call.
#[derive(Debug)]
pub struct Forward<'a> {
    /// Where to run.
    pub device: &'a Device,
    /// Specs of the inputs.
    pub specs: &'a [Spec],
    /// Spec of the output.
    pub out_spec: &'a Spec,
    /// Inputs.
    pub ins: Vec<Buf<'a>>,
    /// Output; its content is undefined (NaN in poison mode).
    pub out: BufMut<'a>,
    /// Saved values, undefined content.
    pub saved: Vec<BufMut<'a>>,
    /// Scratch of `forward_scratch` bytes, undefined content.
    pub scratch: BufMut<'a>,
}

/// What comes after an operation's forward step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Later {
    /// No backward pass.
    Nothing,
    /// A backward pass.
    Backward,
    /// The same step again, for what it saves, and a backward pass.
    Again,
}

/// One gradient to write.
#[derive(Debug)]
pub struct Grad<'a> {
    /// How.
    pub mode: GradMode,
    /// Where; empty when skipped.
    pub buf: BufMut<'a>,
}

impl Grad<'_> {
    /// True unless skipped.
    pub fn wanted(&self) -> bool {
        self.mode != GradMode::Skip
    }

    /// The factor on the old content: 0 to overwrite (the old content may be NaN), 1 to add.
    pub fn beta(&self) -> f32 {
        if self.mode == GradMode::Accumulate { 1.0 } else { 0.0 }
    }
}

/// Buffers of one backward call.
#[derive(Debug)]
pub struct Backward<'a> {
    /// Where to run.
    pub device: &'a Device,
    /// Specs of the inputs.
    pub specs: &'a [Spec],
    /// Spec of the output.
    pub out_spec: &'a Spec,
    /// Kept inputs; an empty buffer where not kept.
    pub ins: Vec<Buf<'a>>,
    /// The output; empty when not kept.
    pub out: Buf<'a>,
    /// Saved values; empty vector when not kept.
    pub saved: Vec<Buf<'a>>,
    /// Gradient of the output.
    pub d_out: Buf<'a>,
    /// Gradients of the inputs, one for each, skipped ones included.
    pub d_ins: Vec<Grad<'a>>,
    /// Scratch of `backward_scratch` bytes, undefined content.
    pub scratch: BufMut<'a>,
}

/// An i32 input whose values pick rows of another input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Indices {
    /// Which input.
    pub input: usize,
    /// One of its values, in words: `token id`.
    pub what: &'static str,
    /// Values are in `0..below`.
    pub below: usize,
}

/// The face of one kernel folder; nothing outside the folder knows its insides.
pub trait Op: std::any::Any + std::fmt::Debug + Send + Sync {
    /// Folder name.
    fn name(&self) -> &'static str;

    /// This operation and `next`, which alone reads its output, as input `at`, as one operation on the inputs of this one
    /// and then the other inputs of `next`, with the same saved values, or with its output as one more; `None` where there is no
    /// such kernel, none that a backward pass can follow `later`, or none that is worth doing again.
    fn followed_by(&self, _next: &dyn Op, _at: usize, _later: Later) -> Option<Box<dyn Op>> {
        None
    }

    /// `count` operations like this one, with the same first input, as one: its inputs are that one, then the frozen others
    /// of each in turn, then each of the `trained` others (behind the first) of all, joined along the first axis; its output
    /// is theirs along a new first axis. `None` where there is no such kernel, or none that a `backward` pass can follow.
    fn beside(&self, _count: usize, _trained: &[bool], _backward: bool) -> Option<Box<dyn Op>> {
        None
    }

    /// Inputs whose gradient is the output's, bit for bit: the plan may let them share its buffer, and then asks for
    /// [`GradMode::Skip`].
    fn passes(&self) -> &'static [usize] {
        &[]
    }

    /// Shapes of output, saved values and scratch; never panics.
    ///
    /// # Errors
    /// [`crate::error::Error::Shape`] or `DType` with `at` = the operation's name; the recorder prefixes the scope.
    fn infer(&self, ins: &[Spec]) -> Result<Signature>;

    /// The inputs that hold indices, for shapes that `infer` accepts. A program refuses values outside their range
    /// where they are fed, on every device.
    fn indices(&self, ins: &[Spec]) -> Vec<Indices> {
        let _ = ins;
        vec![]
    }

    /// Why there is no backward pass, where there is none; a plan that needs one is refused with it.
    fn forward_only(&self) -> Option<&'static str> {
        None
    }

    /// Element types that the operation has kernels in, for every pass and every chip; where one is missing the
    /// checks fail.
    fn types(&self) -> &'static [DType] {
        &DType::FLOATS
    }

    /// Whether each device keeps the saved values in an order of its own; they are not compared then.
    fn saves_in_own_order(&self) -> bool {
        false
    }

    /// What backward reads when the gradients of the inputs marked in `wants` are wanted.
    fn keeps(&self, wants: &[bool]) -> Keeps;

    /// Work of one forward call.
    fn cost(&self, ins: &[Spec], out: &Spec) -> Cost;

    /// Work of one backward call with the gradients of `wants`; by default forward's once per wanted gradient.
    fn backward_cost(&self, ins: &[Spec], out: &Spec, wants: &[bool]) -> Cost {
        let c = self.cost(ins, out);
        let n = wants.iter().filter(|w| **w).count() as f64;
        Cost { flop: c.flop * n, bytes: c.bytes * n }
    }

    /// Settings that matter to a reader of the plan, `stride 2 pad 1`; empty by default.
    fn detail(&self) -> String {
        String::new()
    }

    /// The kernel variants a GPU runs for these shapes, for a reader of the plan; empty when there is no choice.
    fn variant(&self, cuda: &Cuda, ins: &[Spec], out: &Spec, backward: bool) -> String {
        let _ = (cuda, ins, out, backward);
        String::new()
    }

    /// Computes the output and the saved values.
    ///
    /// # Errors
    /// Driver errors, or [`crate::error::Error::NoKernel`] where a device has no variant.
    fn forward(&self, io: Forward<'_>) -> Result<()>;

    /// Computes the wanted gradients.
    ///
    /// # Errors
    /// As [`Op::forward`].
    fn backward(&self, io: Backward<'_>) -> Result<()>;
}
