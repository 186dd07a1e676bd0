//! Token embeddings, sinusoids of numbers, rows picked by index.

pub mod cases;
mod cpu;
mod cuda;
mod sinusoid;

use crate::{
    device::Device,
    error::{Error, Result},
    kernels::{check, frame},
    op::{Backward, Cost, Forward, Indices, Keeps, Op, Signature},
    tensor::{DType, Spec},
};

/// `y[n, l] = table[ids[n, l]] + positions[l]`; ids from `V` on are rows of a fourth input, `added`, where it is given:
/// learned words beside a frozen table.
///
/// # Shapes
/// `ids: [N, L] i32`, `table: [V, C]`, `positions: [P, C]` with `P >= L`, `added: [A, C]`, `y: [N, L, C]`; f32, bf16 or
/// f16.
/// # Gradient
/// Rows of the tables; keeps `ids`. On a GPU the first token with an id sums all with it, in order.
/// # Errors
/// `P < L`; an id outside the table ([`Error::Data`] when a program is fed it, on every device; a kernel alone
/// gives a row of NaN on a GPU).
#[derive(Clone, Copy, Debug)]
pub struct Embedding {
    /// Whether there are added rows.
    pub added: bool,
}

/// `y[.., :half] = sin(x f_i)`, `y[.., half:] = cos(x f_i)`, or cos first, with
/// `f_i = max_period^(-i / (half - shift))`.
///
/// # Shapes
/// `x: [..]`, `y: [.., dim]` f32; an odd `dim` is padded with a 0.
/// # Gradient
/// `dx = sum_i f_i (cos(x f_i) dsin_i - sin(x f_i) dcos_i)`; keeps `x`.
/// # Source
/// methods.md §3.1 (time and size embeddings).
#[derive(Clone, Copy, Debug)]
pub struct Sinusoid {
    /// Width of the embedding.
    pub dim: usize,
    /// Cosines in the first half.
    pub flip_sin_to_cos: bool,
    /// Subtracted from the number of frequencies.
    pub shift: f32,
    /// Largest period over 2 pi.
    pub max_period: f32,
}

/// `y[n] = x[n, rows[n]]`: the end-of-text state.
///
/// # Shapes
/// `x: [N, L, C]`, `rows: [N] i32`, `y: [N, C]`; f32, bf16 or f16.
/// # Gradient
/// `dx` is 0 but for the picked rows; keeps `rows`.
/// # Errors
/// A row outside `0..L` ([`Error::Data`] when a program is fed it; a kernel alone gives a row of NaN on a GPU).
#[derive(Clone, Copy, Debug)]
pub struct GatherRows;

fn i32_input(at: &str, what: &str, spec: &Spec) -> Result<()> {
    if spec.dtype == DType::I32 {
        return Ok(());
    }
    Err(Error::DType {
        at: format!("{at}: {what}"),
        got: spec.dtype.to_string(),
        want: "i32".into(),
    })
}

fn count(at: &str, ins: &[Spec], names: &[&str]) -> Result<()> {
    if ins.len() == names.len() {
        return Ok(());
    }
    let problem = format!("{} inputs, expected {}: {}", ins.len(), names.len(), names.join(", "));
    Err(Error::Plan { at: at.into(), problem })
}

impl Op for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }
    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        let names = ["ids", "table", "positions", "added"];
        let names = &names[..if self.added { 4 } else { 3 }];
        count(self.name(), ins, names)?;
        i32_input(self.name(), "ids", &ins[0])?;
        let dtype = check::float_inputs(self.name(), &ins[1..], &names[1..])?;
        let ([n, l], [_, c]) = (&ins[0].dims[..], &ins[1].dims[..]) else {
            let want = "[N, L], with a table [V, C]".into();
            return Err(check::shape(self.name(), "ids", &ins[0], want));
        };
        if ins[2].dims.len() != 2 || ins[2].dims[0] < *l || ins[2].dims[1] != *c {
            let want = format!("[at least {l}, {c}]; the text is longer than the encoder allows");
            return Err(check::shape(self.name(), "positions", &ins[2], want));
        }
        if let Some(added) = ins.get(3) {
            let want = || format!("[A, {c}], rows of the table");
            let fits = added.dims.len() == 2 && added.dims[1] == *c;
            fits.then_some(()).ok_or_else(|| check::shape(self.name(), "added", added, want()))?;
        }
        Ok(Signature::of(Spec::new(&[*n, *l, *c], dtype)))
    }
    fn indices(&self, ins: &[Spec]) -> Vec<Indices> {
        let added = ins.get(3).map_or(0, |a| a.dims[0]);
        vec![Indices { input: 0, what: "token id", below: ins[1].dims[0] + added }]
    }
    fn keeps(&self, _: &[bool]) -> Keeps {
        Keeps { ins: vec![0], ..Keeps::default() }
    }
    fn cost(&self, _: &[Spec], out: &Spec) -> Cost {
        Cost { flop: out.len() as f64, bytes: 3.0 * out.bytes() as f64 }
    }
    fn forward(&self, io: Forward<'_>) -> Result<()> {
        match io.device {
            Device::Cpu => {
                check::cpu_dtype(self.name(), io.out_spec.dtype)?;
                cpu::embed(io)
            }
            Device::Cuda(cuda) => cuda::embed(cuda, &io),
        }
    }
    fn backward(&self, io: Backward<'_>) -> Result<()> {
        frame::backward(
            self.name(),
            io,
            |io| cpu::embed_backward(io),
            |cuda, io| cuda::embed_backward(cuda, io),
        )
    }
}

impl Op for Sinusoid {
    fn name(&self) -> &'static str {
        "sinusoid"
    }

    fn types(&self) -> &'static [DType] {
        &[DType::F32]
    }
    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        check::f32_inputs(self.name(), ins, &["x"])?;
        let dims = [&ins[0].dims[..], &[self.dim]].concat();
        Ok(Signature::of(Spec::f32(&dims)))
    }
    fn keeps(&self, _: &[bool]) -> Keeps {
        Keeps { ins: vec![0], ..Keeps::default() }
    }
    fn cost(&self, _: &[Spec], out: &Spec) -> Cost {
        Cost { flop: 0.0, bytes: out.bytes() as f64 }
    }
    fn detail(&self) -> String {
        format!("dim {}", self.dim)
    }
    fn forward(&self, io: Forward<'_>) -> Result<()> {
        match io.device {
            Device::Cpu => cpu::sinusoid(self, io),
            Device::Cuda(cuda) => return sinusoid::forward(self, cuda, &io),
        }
        Ok(())
    }
    fn backward(&self, io: Backward<'_>) -> Result<()> {
        match io.device {
            Device::Cpu => cpu::sinusoid_backward(self, io),
            Device::Cuda(cuda) => return sinusoid::backward(self, cuda, &io),
        }
        Ok(())
    }
}

impl Op for GatherRows {
    fn name(&self) -> &'static str {
        "gather_rows"
    }
    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        count(self.name(), ins, &["x", "rows"])?;
        i32_input(self.name(), "rows", &ins[1])?;
        check::float_inputs(self.name(), &ins[..1], &["x"])?;
        let [n, _, c] = ins[0].dims[..] else {
            return Err(check::shape(self.name(), "x", &ins[0], "[N, L, C]".into()));
        };
        check::dims(self.name(), "rows", &ins[1], &[n], "(first axis of x)")?;
        Ok(Signature::of(ins[0].with(&[n, c])))
    }
    fn indices(&self, ins: &[Spec]) -> Vec<Indices> {
        vec![Indices { input: 1, what: "row", below: ins[0].dims[1] }]
    }
    fn keeps(&self, _: &[bool]) -> Keeps {
        Keeps { ins: vec![1], ..Keeps::default() }
    }
    fn cost(&self, _: &[Spec], out: &Spec) -> Cost {
        Cost { flop: 0.0, bytes: 2.0 * out.bytes() as f64 }
    }
    fn forward(&self, io: Forward<'_>) -> Result<()> {
        match io.device {
            Device::Cpu => {
                check::cpu_dtype(self.name(), io.out_spec.dtype)?;
                cpu::gather(io)
            }
            Device::Cuda(cuda) => cuda::gather(cuda, &io),
        }
    }
    fn backward(&self, io: Backward<'_>) -> Result<()> {
        frame::backward(
            self.name(),
            io,
            |io| cpu::gather_backward(io),
            |cuda, io| cuda::gather_backward(cuda, io),
        )
    }
}
