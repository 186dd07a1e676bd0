//! The training losses: weighted squared error, and the preference loss of DCO.

pub mod cases;
mod cuda;
mod dco;
mod masked_mse;

pub use dco::Dco;
pub use masked_mse::MaskedMse;

use crate::{
    error::{Error, Result},
    op::Grad,
    tensor::Spec,
};

/// Refuses `got` unless its dims are `want`.
fn same(what: &'static str, got: &Spec, want: &[usize]) -> Result<()> {
    if got.dims == want {
        return Ok(());
    }
    let want = format!("{want:?} from the prediction");
    Err(Error::Shape { at: "loss".into(), what, got: got.dims.clone(), want })
}

/// Elements of one sample and channels of one position.
fn extents(pred: &Spec) -> (usize, usize) {
    (pred.len() / pred.dims.first().copied().unwrap_or(1).max(1), pred.last())
}

/// The dims of a map of `pred`: all but the channels.
fn map_dims(pred: &Spec) -> Result<&[usize]> {
    match pred.dims.split_last() {
        Some((_, map)) if !map.is_empty() => Ok(map),
        _ => {
            let (got, want) = (pred.dims.clone(), "[N, .., C]".into());
            Err(Error::Shape { at: "loss".into(), what: "prediction", got, want })
        }
    }
}

/// Writes `value(i)` into every element of a wanted gradient.
fn write(d: &mut Grad<'_>, value: impl Fn(usize) -> f32) {
    if !d.wanted() {
        return;
    }
    let keep = d.beta();
    for (i, d) in d.buf.f32().iter_mut().enumerate() {
        *d = if keep == 0.0 { value(i) } else { *d + value(i) };
    }
}
