//! The scale of the loss during a run: what is logged of it, and when it is given up.

use crate::{
    error::{Error, Result},
    kernels::adamw::Scale,
};

/// Columns of the log with a scaled loss: the scale that the step's gradient was taken with, and whether its update was
/// skipped.
pub(super) const COLUMNS: [&str; 2] = ["loss_scale", "skipped"];

/// A dynamic scale below this is given up: gradients that are too long even so are no matter of f16's range.
const LEAST: f32 = 1.0 / 1024.0;
/// So many updates skipped in a row are given up at any scale.
const MOST_IN_A_ROW: u32 = 50;

/// The columns of a step that began with the first scale and ended with the second; none without a scale.
pub(super) fn logged(scales: Option<[Scale; 2]>) -> Vec<(String, f32)> {
    let Some([before, after]) = scales else { return vec![] };
    let skipped = f32::from(u8::from(after.skipped > before.skipped));
    COLUMNS.map(String::from).into_iter().zip([before.value, skipped]).collect()
}

/// Ends a run that only skips.
///
/// # Errors
/// [`Error::Data`] for a scale below 2^-10 or 50 skipped updates in a row, after `step` steps.
pub(super) fn check(scale: Scale, step: u64) -> Result<()> {
    let Scale { value, in_a_row, .. } = scale;
    if value >= LEAST && in_a_row < MOST_IN_A_ROW {
        return Ok(());
    }
    Err(Error::Data {
        at: format!("step {step}"),
        found: format!(
            "no finite gradient in {in_a_row} updates in a row, the loss scale is down to {value}"
        ),
        expected: format!("finite gradients before that, at a loss scale of at least {LEAST}"),
        fix: "train in bf16 (--dtype bf16, another --out), or lower train.learning_rate".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_shows_the_scale_of_its_own_gradient_and_whether_it_was_skipped() {
        let before = Scale { value: 8.0, good: 3, skipped: 1, in_a_row: 0 };
        let skip = Scale { value: 4.0, good: 0, skipped: 2, in_a_row: 1 };
        let row = |after| logged(Some([before, after])).into_iter().map(|(_, v)| v);
        assert!(row(skip).eq([8.0, 1.0]));
        assert!(row(Scale { value: 16.0, good: 0, ..before }).eq([8.0, 0.0]));
        assert!(logged(None).is_empty());
    }
}
