//! Loss scaling: by what the gradient of a loss is multiplied, so that half precision can hold it.

use serde::{Deserialize, Serialize};

/// How the scale of a loss moves.
///
/// The gradient of the loss starts from the scale in place of 1, and the update divides by it. An update whose gradient
/// is not finite is skipped: weights, moments, moving average and AdamW's own count of steps stay. A dynamic scale is
/// then halved, and doubled after `interval` updates in a row that were not skipped.
///
/// # Source
/// Micikevicius et al. 2018, section 3.2; the numbers of [`Scaling::DYNAMIC`] are those of PyTorch's `GradScaler`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scaling {
    /// The scale of the first step: a power of two, so that scaling itself rounds nothing.
    pub initial: f32,
    /// Good updates in a row until the scale is doubled; 0: it never changes.
    pub interval: u32,
}

/// Where the scale of a loss stands between two steps; the twin of `Scale` in state.cuh.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Serialize,
    Deserialize,
    bytemuck::Pod,
    bytemuck::Zeroable,
)]
pub struct Scale {
    /// What the gradient of the next loss starts from.
    pub value: f32,
    /// Updates in a row that were not skipped, since the scale last changed.
    pub good: u32,
    /// Updates skipped in all.
    pub skipped: u32,
    /// Updates skipped in a row, up to the last one; 0 when that was not skipped.
    pub in_a_row: u32,
}

impl Scaling {
    /// From 65536, halved at every skipped update, doubled after 2000 good ones.
    pub const DYNAMIC: Self = Self { initial: 65536.0, interval: 2000 };

    /// Always the same scale.
    pub fn fixed(scale: f32) -> Self {
        Self { initial: scale, interval: 0 }
    }

    /// Where a run begins.
    pub fn start(&self) -> Scale {
        Scale { value: self.initial, ..Scale::default() }
    }

    /// Where the scale stands after an update whose gradient was, or was not, `finite`.
    pub fn after(&self, scale: Scale, finite: bool) -> Scale {
        let Scale { mut value, good, skipped, .. } = scale;
        let moves = self.interval > 0;
        if !finite {
            value *= if moves { 0.5 } else { 1.0 };
            return Scale { value, good: 0, skipped: skipped + 1, in_a_row: scale.in_a_row + 1 };
        }
        let mut good = good + 1;
        if moves && good >= self.interval {
            let double = 2.0 * value;
            value = if double.is_finite() { double } else { value };
            good = 0;
        }
        Scale { value, good, skipped, in_a_row: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skip_halves_at_once_and_good_updates_double_after_the_interval() {
        let scaling = Scaling { initial: 8.0, interval: 3 };
        let run = |finite: &[bool]| {
            finite.iter().fold(scaling.start(), |scale, finite| scaling.after(scale, *finite))
        };
        let at = |value, good, skipped, in_a_row| Scale { value, good, skipped, in_a_row };
        assert_eq!(run(&[true, true]), at(8.0, 2, 0, 0));
        assert_eq!(run(&[true, true, true]), at(16.0, 0, 0, 0));
        assert_eq!(run(&[true, true, false]), at(4.0, 0, 1, 1));
        assert_eq!(run(&[false, false, true]), at(2.0, 1, 2, 0));
        assert_eq!(run(&[true, true, false, true, true, true]), at(8.0, 0, 1, 0));
    }

    #[test]
    fn a_fixed_scale_stays_and_a_large_one_does_not_become_infinite() {
        let fixed = Scaling::fixed(4.0);
        let after = fixed.after(fixed.after(fixed.start(), false), true);
        assert_eq!((after.value, after.skipped, after.in_a_row), (4.0, 1, 0));
        let large = Scaling { initial: 2f32.powi(127), interval: 1 };
        assert_eq!(large.after(large.start(), true).value, 2f32.powi(127));
    }
}
