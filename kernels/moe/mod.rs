//! Mixture of experts: every token goes through a few of `E` expert networks and comes back as their weighted sum.
//!
//! A mixture of two-layer experts is recorded as
//! `logits = linear(x)`, `table = Route(logits)`, `rows = Permute(x, table)`, `h = Experts(rows, table, w1, b1)`,
//! `a = gelu(h)`, `y = Experts(a, table, w2, b2)`, `out = Combine(y, table, logits)`, and a residual sum.
//! Which experts a token goes to has no gradient; the weights of those it goes to have.
//!
//! The table holds `R = T S` rows (T tokens of S slots), ordered by expert, within an expert by token:
//! `row[T, S]` (where a slot lies), `expert[T, S]` (ascending within a token), `source[R]` (`t S + s`), and
//! `offset[E + 1]` (first row of each expert), one i32 vector. Every row belongs to one slot, so all passes
//! gather, and a gradient needs no atomic addition.

pub mod cases;
mod combine;
mod cpu;
mod cuda;
mod experts;
mod permute;
mod route;

pub use combine::Combine;
pub use experts::Experts;
pub use permute::Permute;
pub use route::Route;

use crate::{
    error::{Error, Result},
    kernels::check,
    tensor::{DType, Spec},
};

/// Most experts of a mixture, on every device: `MaxExperts` of `routing.cuh`, whose masks hold a bit for each.
pub const MAX_EXPERTS: usize = 512;

/// Refuses logits of more experts than [`MAX_EXPERTS`], while recording.
fn check_experts(at: &str, logits: &Spec) -> Result<()> {
    if logits.last() <= MAX_EXPERTS {
        return Ok(());
    }
    Err(check::shape(at, "logits", logits, format!("[.., E] with at most {MAX_EXPERTS} experts")))
}

/// Extents of a routing table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Tokens.
    pub tokens: usize,
    /// Experts there are.
    pub experts: usize,
    /// Experts a token goes to.
    pub slots: usize,
}

impl Table {
    /// Rows of all experts together.
    pub fn rows(self) -> usize {
        self.tokens * self.slots
    }

    /// Shape of the table.
    pub fn spec(self) -> Spec {
        Spec::i32(&[3 * self.rows() + self.experts + 1])
    }
}

/// What `--variant` can choose here.
pub(super) fn slots() -> Vec<super::variant::Slot> {
    [cuda::route::slots(), cuda::products::slots()].concat()
}

/// Refuses a table of another shape than `want`'s.
fn check_table(at: &str, spec: &Spec, want: Table) -> Result<()> {
    if spec.dtype != DType::I32 {
        let (got, want) = (spec.dtype.to_string(), "i32, as Route makes it".into());
        return Err(Error::DType { at: format!("{at}: table"), got, want });
    }
    let why = format!("for {} tokens, {} of {} experts", want.tokens, want.slots, want.experts);
    check::dims(at, "table", spec, &want.spec().dims, &why)
}

/// `n` inputs, or an error that lists them.
fn count(at: &str, ins: &[Spec], names: &[&str]) -> Result<()> {
    if ins.len() == names.len() {
        return Ok(());
    }
    let problem = format!("{} inputs, expected {}: {}", ins.len(), names.len(), names.join(", "));
    Err(Error::Plan { at: at.into(), problem })
}

/// All but the table, which is input 1, are of one float type.
fn floats(at: &str, ins: &[Spec], names: &[&'static str]) -> Result<DType> {
    let others: Vec<Spec> =
        ins.iter().enumerate().filter(|(i, _)| *i != 1).map(|(_, s)| s.clone()).collect();
    check::float_inputs(at, &others, names)
}

/// The table's extents from rows and logits.
fn extents(rows: &Spec, logits: &Spec) -> Table {
    let tokens = leading(logits);
    let rows = rows.dims.first().copied().unwrap_or(0);
    let slots = rows.checked_div(tokens).unwrap_or(0);
    Table { tokens, experts: logits.last(), slots }
}

/// Product of all axes but the last.
fn leading(spec: &Spec) -> usize {
    spec.dims.split_last().map_or(1, |(_, lead)| lead.iter().product())
}
