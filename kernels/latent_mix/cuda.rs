//! Launches of `latent_mix.cu`.

use super::{Extent, LatentMix, Noise};
use crate::{
    device::{Buf, Cuda, Touched},
    error::{Error, Result},
    op::{Backward, Forward, GradMode},
    tensor::Spec,
};

/// What `MaxSubjects` is in the kernel; the argument sizes are compared at load.
const MAX_SUBJECTS: usize = 16;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Subject {
    z: u64,
    mask: u64,
    top: i32,
    left: i32,
    h: i32,
    w: i32,
    mask_h: i32,
    mask_w: i32,
    gamma: f32,
    unused: i32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Args {
    subject: [Subject; MAX_SUBJECTS],
    given: u64,
    state: u64,
    target: u64,
    subjects: i32,
    height: i32,
    width: i32,
    channels: i32,
    index: i32,
    accumulate: i32,
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

/// Operands that every launch of one call shares: subjects and canvas, and the memory they touch.
fn operands(
    op: &LatentMix,
    specs: &[Spec],
    ins: &[Buf<'_>],
    out: &Spec,
    kept: &[usize],
) -> Result<(Args, Vec<Touched>)> {
    if op.segments.len() > MAX_SUBJECTS {
        return Err(Error::NoKernel {
            op: "latent_mix",
            key: format!("{} subjects", op.segments.len()),
            tried: format!("up to {MAX_SUBJECTS}"),
        });
    }
    let mut args: Args = bytemuck::Zeroable::zeroed();
    let mut touches = vec![];
    let mut address = |i: usize, what| {
        if !kept.contains(&i) {
            return 0;
        }
        let at = ins[i].address();
        touches.push(Touched::new(what, at, &specs[i]));
        at
    };
    for (i, place) in op.segments.iter().enumerate() {
        let e = Extent::of(&specs[2 * i], &specs[2 * i + 1]);
        args.subject[i] = Subject {
            z: address(2 * i, "latents"),
            mask: address(2 * i + 1, "mask"),
            top: place.top,
            left: place.left,
            h: int(e.h)?,
            w: int(e.w)?,
            mask_h: int(e.mask_h)?,
            mask_w: int(e.mask_w)?,
            gamma: place.gamma,
            unused: 0,
        };
    }
    args.subjects = int(op.segments.len())?;
    args.height = int(op.canvas[0])?;
    args.width = int(op.canvas[1])?;
    args.channels = int(out.dims[3])?;
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
    let last = 2 * op.segments.len();
    let all: Vec<usize> = (0..last).collect();
    let (mut args, mut touches) = operands(op, io.specs, &io.ins, io.out_spec, &all)?;
    let v = variant(io.out_spec.dims[3]);
    let (field, symbol) = match op.noise {
        Noise::Given => (&mut args.given, v.forward_given),
        Noise::Seeded => (&mut args.state, v.forward_seeded),
    };
    *field = io.ins[last].address();
    touches.push(Touched::new("noise", io.ins[last].address(), &io.specs[last]));
    args.target = io.out.address();
    touches.push(Touched::new("out", args.target, io.out_spec));
    launch(cuda, symbol, io.out_spec, &args, &touches)
}

pub(super) fn backward(op: &LatentMix, cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let wants: Vec<bool> = io.d_ins.iter().map(|g| g.wanted()).collect();
    let kept = op.reads(&wants);
    let (mut args, mut touches) = operands(op, io.specs, &io.ins, io.out_spec, &kept)?;
    let v = variant(io.out_spec.dims[3]);
    args.given = io.d_out.address();
    touches.push(Touched::new("d_out", args.given, io.out_spec));
    for (k, grad) in io.d_ins.iter().enumerate().filter(|(_, g)| g.wanted()) {
        let spec = &io.specs[k];
        args.index = int(k / 2)?;
        args.accumulate = i32::from(grad.mode == GradMode::Accumulate);
        args.target = grad.buf.address();
        let symbol = match (k < 2 * op.segments.len(), k % 2) {
            (false, _) => v.backward_noise,
            (true, 0) => v.backward_latents,
            (true, _) => BACKWARD_MASK,
        };
        touches.push(Touched::new("gradient", args.target, spec));
        launch(cuda, symbol, spec, &args, &touches)?;
        touches.pop();
    }
    Ok(())
}
