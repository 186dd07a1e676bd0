//! Launches of an adapter's products: its kernels for all parts of joined layers, both weight gradients at once.

use super::{
    narrow::{self, Side},
    problem::{Operands, Parts},
    tiles,
    tilings::{SM90_NARROW_32, SM90_NARROW_64, SM90_NARROW_128, Tiling},
};
use crate::{device::Cuda, error::Result};

impl Parts {
    /// The kernel of an adapter's products, by its rank `n`.
    fn narrow(&self) -> &'static Tiling {
        let all = [&SM90_NARROW_32, &SM90_NARROW_64, &SM90_NARROW_128];
        all.into_iter().find(|t| t.cols >= self.one.n).unwrap_or(&SM90_NARROW_128)
    }

    /// The variant of [`Parts::project`].
    pub fn adapter(&self) -> &'static str {
        self.narrow().name
    }

    /// Launches `out [M, count N]`, whose columns are `left_p [M, K] right_p [K, N]`; both operands lie one part behind
    /// the other.
    ///
    /// # Errors
    /// Those of the maps and the launch.
    pub fn project(&self, cuda: &Cuda, o: &Operands) -> Result<()> {
        narrow::project(cuda, self, self.narrow(), o)
    }

    /// The kernel with a narrow side of a weight gradient. Several parts have no other.
    fn narrow_grad(&self, cuda: &Cuda) -> Result<Option<&'static Tiling>> {
        if self.count > 1 {
            return Ok(Some(self.narrow()));
        }
        tiles::narrow_tiling(cuda, &self.one)
    }

    /// Predicted microseconds of a weight gradient in a launch of its own.
    fn grad_us(&self, cuda: &Cuda) -> Result<f64> {
        if self.count > 1 {
            return Ok(tiles::grads_us(&[(*self, self.narrow())]));
        }
        let tiling = tiles::tiling(cuda, &self.one)?;
        Ok(tiling.predicted_us(&self.one, tiling.ranges(&self.one)))
    }

    /// Launches a weight gradient alone.
    fn grad(&self, cuda: &Cuda, o: &Operands, scratch: u64) -> Result<()> {
        if self.count > 1 {
            return narrow::grad(cuda, &Side { parts: *self, o, tiling: self.narrow() }, None);
        }
        self.one.run(cuda, o, scratch)
    }

    /// The variant of [`Parts::grad`].
    fn describe_grad(&self, cuda: &Cuda) -> String {
        if self.count > 1 { self.adapter().into() } else { self.one.describe(cuda) }
    }
}

/// The kernels of two weight gradients, where one launch of both is predicted to take less than two.
fn together(cuda: &Cuda, [a, b]: [&Parts; 2]) -> Result<Option<[&'static Tiling; 2]>> {
    let (Some(s), Some(t)) = (a.narrow_grad(cuda)?, b.narrow_grad(cuda)?) else { return Ok(None) };
    let apart_us = a.grad_us(cuda)? + b.grad_us(cuda)? + tiles::LAUNCH_US;
    Ok((tiles::grads_us(&[(*a, s), (*b, t)]) < apart_us).then_some([s, t]))
}

/// Launches the weight gradients `out_p [M, N] = left_p [K, M]^T right_p` that are wanted of an adapter, two as one launch
/// where that is faster. Parts lie one behind the other as `left` does; the columns of their `right [K, count N]` lie
/// beside each other.
///
/// # Errors
/// As [`Parts::project`].
pub(crate) fn gradients(cuda: &Cuda, wanted: &[(Parts, Operands)], scratch: u64) -> Result<()> {
    if let [(a, first), (b, second)] = wanted
        && let Some([s, t]) = together(cuda, [a, b])?
    {
        let first = Side { parts: *a, o: first, tiling: s };
        let second = Side { parts: *b, o: second, tiling: t };
        let [wide, other] = if s.cols < t.cols { [second, first] } else { [first, second] };
        return narrow::grad(cuda, &wide, Some(&other));
    }
    wanted.iter().try_for_each(|(parts, o)| parts.grad(cuda, o, scratch))
}

/// The variants of two weight gradients by their names, for the printed plan.
pub(crate) fn describe(cuda: &Cuda, [(a, first), (b, second)]: [(&str, &Parts); 2]) -> String {
    if let Ok(Some([s, t])) = together(cuda, [first, second]) {
        let [wide, other] = if s.cols < t.cols { [t, s] } else { [s, t] };
        return format!("{a}+{b} {}", narrow::grad_kernel(wide, other).0);
    }
    format!("{a} {}, {b} {}", first.describe_grad(cuda), second.describe_grad(cuda))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        device::StandIn,
        kernels::linear::problem::{Pass, Problem},
        tensor::DType,
    };

    #[test]
    fn gradients_of_sdxls_adapters_are_one_launch_and_f32_ones_are_not() -> Result<()> {
        let chip = StandIn {
            name: "a Hopper chip".into(),
            capability: (9, 0),
            multiprocessors: 132,
            shared_bytes: 227 << 10,
        };
        let cuda = Cuda::stand_in(&chip)?;
        let of = |dtype, [rows, n, k, rank, count]: [usize; 5]| {
            let one = |mn: [usize; 2]| Problem::dense(Pass::Weight, dtype, [mn[0], mn[1], rows], 0);
            let d_up = Problem { right_pitch: count * rank, ..one([n, rank]) };
            let d_a = Parts { one: one([count * rank, k]), count: 1 };
            describe(&cuda, [("da", &d_a), ("dup", &Parts { one: d_up, count })])
        };
        for (dims, kernel) in [
            ([16384, 640, 640, 32, 1], "da+dup sm90_skinny32"),
            ([4096, 1280, 1280, 64, 1], "da+dup sm90_skinny64"),
            ([4096, 1280, 1280, 128, 1], "da+dup sm90_skinny128"),
            ([308, 1280, 2048, 32, 2], "da+dup sm90_skinny64x32"),
            ([4096, 1280, 1280, 32, 3], "da+dup sm90_skinny128x32"),
            ([4096, 1280, 1280, 40, 3], "da+dup sm90_skinny128x64"),
        ] {
            assert_eq!(of(DType::Bf16, dims), kernel, "{dims:?}");
        }
        let apart = of(DType::F32, [4096, 1280, 1280, 32, 1]);
        assert!(apart.starts_with("da simt") && apart.contains("dup simt"), "{apart}");
        Ok(())
    }
}
