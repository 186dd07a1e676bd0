//! Linear layers and 1x1 convolutions (the same product): frozen, trained or adapted.

use super::Net;
use crate::{
    error::Result,
    kernels::{
        activation::Kind,
        concat::Concat,
        linear::{Linear, concat::ConcatLinear},
        lora_linear::LoraLinear,
    },
    plan::{Unpadded, Value, WeightLayout},
};

/// Whether a layer has a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    /// `y = W x`.
    None,
    /// `y = W x + b`.
    Learned,
}

/// `y = W x (+ b) (+ scale * B A x)` on the last axis; parameters `name.weight` `[out, in]`, `name.bias` `[out]`.
///
/// # Errors
/// Those of the operations.
pub fn linear(net: &mut Net<'_>, name: &str, x: Value, out: usize, bias: Bias) -> Result<Value> {
    net.within(name, |net| product(net, x, out, bias, WeightLayout::Dense))
}

/// A 1x1 convolution, `name.weight` `[out, in, 1, 1]` in the checkpoint: [`linear`] with a bias on channels-last data.
///
/// # Errors
/// Those of the operations.
pub fn conv1x1(net: &mut Net<'_>, name: &str, x: Value, out: usize) -> Result<Value> {
    conv1x1_of(net, name, &[x], out)
}

/// [`conv1x1`] of one value, or of two whose channels stand side by side: read where they are, but joined for an adapter.
///
/// # Errors
/// Those of the operations.
pub fn conv1x1_of(net: &mut Net<'_>, name: &str, x: &[Value], out: usize) -> Result<Value> {
    net.within(name, |net| {
        let x = match x {
            [x] => *x,
            _ if net.adapters.at(&net.path).is_empty() => return parts(net, x, out),
            _ => net.rec.apply(Concat, x)?,
        };
        product(net, x, out, Bias::Learned, WeightLayout::Conv1x1)
    })
}

/// A frozen or trained 1x1 convolution of two values side by side.
fn parts(net: &mut Net<'_>, x: &[Value], out: usize) -> Result<Value> {
    let width = x.iter().map(|x| net.channels(*x)).sum();
    let weight = net.weight("weight", &[out, width], WeightLayout::Conv1x1);
    let bias = net.param("bias", &[out], WeightLayout::Dense);
    let op = ConcatLinear { bias: true, residual: false };
    net.rec.apply(op, &[x, &[weight, bias]].concat())
}

/// `linear_2(silu(linear_1(x)))`, both of width `dim`: what turns a sinusoid into an embedding.
///
/// # Errors
/// Those of the operations.
pub fn embedding_mlp(net: &mut Net<'_>, name: &str, x: Value, dim: usize) -> Result<Value> {
    net.within(name, |net| {
        let h = linear(net, "linear_1", x, dim, Bias::Learned)?;
        let h = net.activate(h, Kind::Silu)?;
        linear(net, "linear_2", h, dim, Bias::Learned)
    })
}

fn product(
    net: &mut Net<'_>,
    x: Value,
    out: usize,
    bias: Bias,
    layout: WeightLayout,
) -> Result<Value> {
    let width = net.channels(x);
    let mut ins = vec![x, net.weight("weight", &[out, width], layout)];
    let has_bias = bias == Bias::Learned;
    if has_bias {
        ins.push(net.param("bias", &[out], WeightLayout::Dense));
    }
    let all = net.adapters.at(&net.path);
    let Some(first) = all.first() else {
        return net.rec.apply(Linear { bias: has_bias }, &ins);
    };
    let of = match layout {
        WeightLayout::Dense => Unpadded::Dense,
        _ => Unpadded::Conv1x1,
    };
    ins.extend(net.adapter(0, first.rank, &[width], out, of));
    let op = LoraLinear { bias: has_bias, residual: false, scale: first.scale };
    let mut y = net.rec.apply(op, &ins)?;
    for (i, a) in all.iter().enumerate().skip(1) {
        let [down, up] = net.adapter(i, a.rank, &[width], out, of);
        let h = net.rec.apply(Linear { bias: false }, &[x, down])?;
        let h = net.rec.apply(Linear { bias: false }, &[h, up])?;
        let h = net.affine(h, a.scale, 0.0)?;
        y = net.add(y, h)?;
    }
    Ok(y)
}
