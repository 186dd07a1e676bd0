//! Several fully connected layers on one input, for inference.

mod cpu;
mod cuda;

use super::{output, parts::MOST_PARTS, rows};
use crate::{
    device::Cuda,
    error::{Error, Result},
    kernels::{check, frame},
    op::{Backward, Cost, Forward, Keeps, Op, Signature},
    tensor::Spec,
};

/// The most layers of one operation: as many as the maps of a Hopper kernel's arguments hold.
pub const MOST: usize = MOST_PARTS;

/// Layers of one width on one input: queries, keys and values of a self-attention; forward only.
///
/// `y[p, i, n] = sum_k x[i, k] w_p[n, k] + b_p[n]`
///
/// # Shapes
/// `x: [.., K]`, then of each part `w: [N, K]` and (only with `bias`) `b: [N]`; `y: [parts, .., N]`; all of one float
/// type. On the CPU the weights may be bf16 or f16 beside f32.
///
/// # Gradient
/// None: forward plans join what was recorded as [`super::Linear`] (see [`Op::beside`]); a plan that trains through it is
/// refused.
///
/// # Numerics
/// As [`super::Linear`], of which each part is one; the order of a part's sum may differ from that layer's on a GPU.
///
/// # Errors
/// `infer` refuses what [`super::Linear`] does, parts of other widths or types, fewer than 2 and more than [`MOST`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Whether every part has a bias.
    pub bias: bool,
    /// Number of parts.
    pub parts: usize,
}

const FORWARD_ONLY: &str =
    "joined layers have no backward pass; record each as linear where gradients are wanted";

/// What `--variant` can choose here.
pub(super) fn slots() -> Vec<crate::kernels::variant::Slot> {
    cuda::slots()
}

/// The output of one part of `x, w (, b), w (, b), ..`.
///
/// # Errors
/// [`Error::Plan`] for another number of operands, fewer than 2 parts or more than [`MOST`]; [`Error::Shape`] for a part that
/// does not fit `x` or is not as the first.
pub(crate) fn alike(at: &str, (parts, bias): (usize, bool), ins: &[Spec]) -> Result<Spec> {
    let (each, got) = (1 + usize::from(bias), ins.len());
    let want = 1 + parts * each;
    if !(2..=MOST).contains(&parts) || got != want {
        let problem =
            format!("{got} operands of {parts} joined layers, expected {want} of 2 to {MOST}");
        return Err(Error::Plan { at: at.into(), problem });
    }
    let names: &[&'static str] = if bias { &["x", "weight", "bias"] } else { &["x", "weight"] };
    let (first, mut out) = (&ins[1..=each], ins[0].clone());
    for part in ins[1..].chunks(each) {
        check::product_inputs(at, &[&ins[..1], part].concat(), names)?;
        out = output(at, &ins[0], &part[0], part.get(1))?;
        if part != first {
            let want = format!("{:?} in {}, as the first part's", first[0].dims, first[0].dtype);
            return Err(check::shape(at, "weight", &part[0], want));
        }
    }
    Ok(out)
}

impl Joined {
    /// Inputs of one part beside `x`.
    fn each(self) -> usize {
        1 + usize::from(self.bias)
    }

    /// Rows, columns and depth of one part.
    fn extents(ins: &[Spec]) -> [usize; 3] {
        [rows(&ins[0]), ins[1].dims[0], ins[0].last()]
    }
}

impl Op for Joined {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        let mut out = alike(self.name(), (self.parts, self.bias), ins)?;
        let (extents, stored) = (Self::extents(ins), check::stored_weight(ins));
        out.dims.insert(0, self.parts);
        let device = cuda::scratch(self.parts, extents, out.dtype);
        Ok(Signature {
            forward_scratch: cpu::scratch(extents, stored).max(device),
            ..Signature::of(out)
        })
    }

    fn forward_only(&self) -> Option<&'static str> {
        Some(FORWARD_ONLY)
    }

    fn keeps(&self, _: &[bool]) -> Keeps {
        Keeps::default()
    }

    fn cost(&self, ins: &[Spec], out: &Spec) -> Cost {
        let bytes = ins.iter().chain([out]).map(|s| s.bytes() as f64).sum();
        Cost { flop: 2.0 * out.len() as f64 * ins[0].last() as f64, bytes }
    }

    fn detail(&self) -> String {
        format!("{} parts", self.parts)
    }

    fn variant(&self, cuda: &Cuda, ins: &[Spec], _: &Spec, backward: bool) -> String {
        if backward { String::new() } else { cuda::describe(*self, cuda, ins) }
    }

    fn forward(&self, io: Forward<'_>) -> Result<()> {
        let (name, on_cpu) = (self.name(), |io| cpu::forward(*self, io));
        frame::forward(name, io, on_cpu, |cuda, io| {
            check::gpu_weight(name, io.specs)?;
            cuda::forward(*self, cuda, io)
        })
    }

    fn backward(&self, _: Backward<'_>) -> Result<()> {
        Err(Error::Plan { at: self.name().into(), problem: FORWARD_ONLY.into() })
    }
}
