//! Launches of `latent_mix.cu`.

use super::{Extent, LatentMix, Noise};
use crate::{
    device::{Buf, Cuda, Touched},
    error::{Error, Result},
    op::{Backward, Forward, GradMode, Op},
    tensor::Spec,
};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Args {
    z: u64,
    mask: u64,
    given: u64,
    state: u64,
    target: u64,
    height: i32,
    width: i32,
    channels: i32,
    mask_height: i32,
    mask_width: i32,
    gamma: f32,
    accumulate: i32,
    unused: i32,
}

/// What a variant is chosen by.
struct Key {
    channels: usize,
}

/// One way to run the elementwise passes.
struct Variant {
    /// Whether it can serve this key; the first that can is taken.
    applies: fn(&Key) -> bool,
    forward_given: &'static str,
    forward_seeded: &'static str,
    backward_latents: &'static str,
    backward_noise: &'static str,
}

const VARIANTS: [Variant; 2] = [
    // Four channels (16 bytes) of one pixel a thread.
    Variant {
        applies: |k| k.channels % 4 == 0,
        forward_given: "latent_mix_forward_given_vec4",
        forward_seeded: "latent_mix_forward_seeded_vec4",
        backward_latents: "latent_mix_backward_latents_vec4",
        backward_noise: "latent_mix_backward_noise_vec4",
    },
    Variant {
        applies: |_| true,
        forward_given: "latent_mix_forward_given_scalar",
        forward_seeded: "latent_mix_forward_seeded_scalar",
        backward_latents: "latent_mix_backward_latents_scalar",
        backward_noise: "latent_mix_backward_noise_scalar",
    },
];
const BACKWARD_MASK: &str = "latent_mix_backward_mask";

fn variant(channels: usize) -> &'static Variant {
    let key = Key { channels };
    VARIANTS.iter().find(|v| (v.applies)(&key)).unwrap_or(&VARIANTS[1])
}

fn int(n: usize) -> Result<i32> {
    i32::try_from(n).map_err(|_| Error::NoKernel {
        op: "latent_mix",
        key: format!("an extent of {n}"),
        tried: "32-bit extents".into(),
    })
}

/// Operands that every launch of one call shares, and the memory they touch; `kept` are the inputs to read.
fn operands(
    op: &LatentMix,
    specs: &[Spec],
    ins: &[Buf<'_>],
    kept: &[usize],
) -> Result<(Args, Vec<Touched>)> {
    let mut args: Args = bytemuck::Zeroable::zeroed();
    let mut touches = vec![];
    for i in kept {
        let (what, field) =
            if *i == 0 { ("latents", &mut args.z) } else { ("mask", &mut args.mask) };
        *field = ins[*i].address();
        touches.push(Touched::new(what, *field, &specs[*i]));
    }
    let e = Extent::of(&specs[0], &specs[1]);
    args.height = int(e.h)?;
    args.width = int(e.w)?;
    args.channels = int(e.channels)?;
    args.mask_height = int(e.mask_h)?;
    args.mask_width = int(e.mask_w)?;
    args.gamma = op.gamma;
    Ok((args, touches))
}

/// Launches over `each` elements of every sample.
fn launch(
    cuda: &Cuda,
    symbol: &'static str,
    spec: &Spec,
    args: &Args,
    touches: &[Touched],
) -> Result<()> {
    if spec.is_empty() {
        return Ok(());
    }
    let samples = spec.dims[0];
    let kernel = cuda.kernel::<Args>("latent_mix", symbol)?;
    let blocks = (spec.len() / samples).div_ceil(kernel.tile().block_cols as usize);
    cuda.launch(&kernel, [blocks as u64, samples as u64, 1], args, touches)
}

pub(super) fn forward(op: &LatentMix, cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
    let (mut args, mut touches) = operands(op, io.specs, &io.ins, &[0, 1])?;
    let v = variant(io.out_spec.dims[3]);
    let (field, symbol) = match op.noise {
        Noise::Given => (&mut args.given, v.forward_given),
        Noise::Seeded => (&mut args.state, v.forward_seeded),
    };
    *field = io.ins[2].address();
    touches.push(Touched::new("noise", io.ins[2].address(), &io.specs[2]));
    args.target = io.out.address();
    touches.push(Touched::new("out", args.target, io.out_spec));
    launch(cuda, symbol, io.out_spec, &args, &touches)
}

pub(super) fn backward(op: &LatentMix, cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let wants: Vec<bool> = io.d_ins.iter().map(|g| g.wanted()).collect();
    let (mut args, mut touches) = operands(op, io.specs, &io.ins, &op.keeps(&wants).ins)?;
    let v = variant(io.out_spec.dims[3]);
    args.given = io.d_out.address();
    touches.push(Touched::new("d_out", args.given, io.out_spec));
    let symbols = [v.backward_latents, BACKWARD_MASK, v.backward_noise];
    for ((grad, spec), symbol) in io.d_ins.iter().zip(io.specs).zip(symbols) {
        if !grad.wanted() {
            continue;
        }
        args.accumulate = i32::from(grad.mode == GradMode::Accumulate);
        args.target = grad.buf.address();
        touches.push(Touched::new("gradient", args.target, spec));
        launch(cuda, symbol, spec, &args, &touches)?;
        touches.pop();
    }
    Ok(())
}
