//! Reference.

use super::Kind;
use crate::{
    device::cpu::{erf, exp, for_chunks, sigmoid},
    op::{Backward, Forward, GradMode},
};

const QUICK: f32 = 1.702; // the factor of OpenAI's CLIP
const SQRT_HALF: f32 = std::f32::consts::FRAC_1_SQRT_2;
const INV_SQRT_TAU: f32 = 0.398_942_3; // 1 / sqrt(2 pi)

/// `x Phi(x)`.
#[inline(always)]
pub(crate) fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * SQRT_HALF))
}

/// `Phi(x) + x phi(x)`.
#[inline(always)]
pub(crate) fn gelu_slope(x: f32) -> f32 {
    0.5 * (1.0 + erf(x * SQRT_HALF)) + x * INV_SQRT_TAU * exp(-0.5 * x * x)
}

/// `x` above 0, `exp(x) - 1` below.
#[inline(always)]
pub(crate) fn elu(x: f32) -> f32 {
    if x > 0.0 { x } else { x.exp_m1() }
}

/// Slope of `x sigmoid(k x)`.
#[inline(always)]
fn swish_slope(x: f32, k: f32) -> f32 {
    let s = sigmoid(k * x);
    s * (1.0 + k * x * (1.0 - s))
}

pub(super) fn forward(kind: Kind, mut io: Forward<'_>) {
    let x = io.ins[0].f32();
    match kind {
        Kind::Silu => map(io.out.f32(), x, |x| x * sigmoid(x)),
        Kind::Gelu => map(io.out.f32(), x, gelu),
        Kind::QuickGelu => map(io.out.f32(), x, |x| x * sigmoid(QUICK * x)),
        Kind::Relu => map(io.out.f32(), x, |x| x.max(0.0)),
        Kind::Tanh => map(io.out.f32(), x, f32::tanh),
        Kind::Elu => map(io.out.f32(), x, elu),
        Kind::Sigmoid => map(io.out.f32(), x, sigmoid),
    }
}

pub(super) fn backward(kind: Kind, io: Backward<'_>) {
    let (x, dy) = (io.ins[0].f32(), io.d_out.f32());
    for mut g in io.d_ins.into_iter().filter(|g| g.wanted()) {
        let (mode, dx) = (g.mode, g.buf.f32());
        match kind {
            Kind::Silu => slope(mode, dx, x, dy, |x| swish_slope(x, 1.0)),
            Kind::Gelu => slope(mode, dx, x, dy, gelu_slope),
            Kind::QuickGelu => slope(mode, dx, x, dy, |x| swish_slope(x, QUICK)),
            Kind::Relu => slope(mode, dx, x, dy, |x| if x > 0.0 { 1.0 } else { 0.0 }),
            Kind::Tanh => slope(mode, dx, x, dy, |x| 1.0 - x.tanh() * x.tanh()),
            Kind::Elu => slope(mode, dx, x, dy, |x| exp(x.min(0.0))),
            // 1 - sigmoid(x) would lose the digits of a slope far above 0
            Kind::Sigmoid => slope(mode, dx, x, dy, |x| sigmoid(x) * sigmoid(-x)),
        }
    }
}

#[inline(always)]
fn map(out: &mut [f32], x: &[f32], f: impl Fn(f32) -> f32 + Sync) {
    for_chunks(
        out,
        1,
        #[inline(always)]
        |at, chunk| {
            for (y, x) in chunk.iter_mut().zip(&x[at..]) {
                *y = f(*x);
            }
        },
    );
}

#[inline(always)]
fn slope(mode: GradMode, dx: &mut [f32], x: &[f32], dy: &[f32], f: impl Fn(f32) -> f32 + Sync) {
    let add = mode == GradMode::Accumulate;
    for_chunks(
        dx,
        1,
        #[inline(always)]
        |at, chunk| {
            for ((d, x), dy) in chunk.iter_mut().zip(&x[at..]).zip(&dy[at..]) {
                let v = f(*x) * dy;
                *d = if add { *d + v } else { v };
            }
        },
    );
}
