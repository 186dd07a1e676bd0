//! The U-Net as a straight line.

use super::{
    Block, UnetConfig,
    transformer::{Shared, transformer},
};
use crate::{
    error::{Error, Result},
    kernels::{affine::Affine, concat::Concat, embedding::Sinusoid, resize::Nearest},
    nn::{After, Conv, Net, Resnet, conv, embedding_mlp, group_norm, resnet},
    plan::Value,
    tensor::DType,
};

/// Longest period of the sinusoids.
const MAX_PERIOD: f32 = 10_000.0;

/// What a U-Net is called with.
#[derive(Clone, Copy, Debug)]
pub struct UnetInputs {
    /// Noisy latent `[N, H, W, in_channels]`.
    pub sample: Value,
    /// Timestep of each picture `[N]`, f32.
    pub timestep: Value,
    /// Text tokens `[N, L, C]`.
    pub context: Value,
    /// Pooled text vector `[N, D]`, for `text_time` conditioning.
    pub text_embeds: Option<Value>,
    /// Time ids `[N, 6]`, f32, for `text_time` conditioning.
    pub time_ids: Option<Value>,
}

/// Predicts the noise (or velocity) in `sample`; parameters are named below the current module.
///
/// # Shapes
/// `[N, H, W, in_channels]` -> `[N, H, W, out_channels]`, any H and W: the way up takes the sizes of the way down.
///
/// # Errors
/// [`Error::Shape`] for inputs that do not fit the configuration, [`Error::Data`] for missing ones.
///
/// # Source
/// diffusers 0.42.1, `UNet2DConditionModel.forward`.
pub fn unet(net: &mut Net<'_>, config: &UnetConfig, inputs: &UnetInputs) -> Result<Value> {
    check(net, config, inputs)?;
    let emb = time_embedding(net, config, inputs)?;
    let time = net.activate(emb, crate::kernels::activation::Kind::Silu)?;
    let walk = Walk {
        config,
        time,
        shared: Shared {
            context: net.rec.compute(inputs.context)?,
            groups: config.norm.0,
            linear: config.linear_projection,
        },
    };
    let x = match config.center_input {
        true => net.affine(inputs.sample, 2.0, -1.0)?,
        false => inputs.sample,
    };
    let x = net.rec.compute(x)?;
    let first = Conv::same(config.down[0].channels, config.conv_in_kernel);
    let mut x = conv(net, "conv_in", x, first)?;
    let mut skips = vec![x];
    for (i, block) in config.down.iter().enumerate() {
        let last = i + 1 == config.down.len();
        x = net.within(&format!("down_blocks.{i}"), |net| {
            walk.down(net, x, block, last, &mut skips)
        })?;
    }
    if let Some(block) = &config.mid {
        x = net.within("mid_block", |net| walk.mid(net, x, block))?;
    }
    for (i, block) in config.up.iter().enumerate() {
        x = net.within(&format!("up_blocks.{i}"), |net| walk.up(net, x, block, &mut skips))?;
    }
    let x = group_norm(net, "conv_norm_out", x, config.norm, After::Silu)?;
    let y = conv(net, "conv_out", x, Conv::same(config.out_channels, config.conv_out_kernel))?;
    net.rec.cast(y, DType::F32)
}

/// What every block needs.
struct Walk<'c> {
    config: &'c UnetConfig,
    /// `silu` of the time embedding `[N, T]`.
    time: Value,
    shared: Shared,
}

impl Walk<'_> {
    fn resnet(&self, net: &mut Net<'_>, i: usize, x: &[Value], out: usize) -> Result<Value> {
        let r = Resnet { out, norm: self.config.norm, time: Some(self.time), divisor: 1.0 };
        resnet(net, &format!("resnets.{i}"), x, &r)
    }

    fn attend(&self, net: &mut Net<'_>, i: usize, x: Value, block: &Block) -> Result<Value> {
        match &block.cross {
            None => Ok(x),
            Some(c) => {
                transformer(net, &format!("attentions.{i}"), x, (c, c.depths[i]), self.shared)
            }
        }
    }

    fn down(
        &self,
        net: &mut Net<'_>,
        mut x: Value,
        block: &Block,
        last: bool,
        skips: &mut Vec<Value>,
    ) -> Result<Value> {
        for i in 0..block.layers {
            x = self.resnet(net, i, &[x], block.channels)?;
            x = self.attend(net, i, x, block)?;
            skips.push(x);
        }
        if !last {
            let shape = Conv::halve(block.channels, self.config.downsample_padding);
            x = net.within("downsamplers.0", |net| conv(net, "conv", x, shape))?;
            skips.push(x);
        }
        Ok(x)
    }

    fn mid(&self, net: &mut Net<'_>, x: Value, block: &Block) -> Result<Value> {
        let r = Resnet {
            out: block.channels,
            norm: self.config.norm,
            time: Some(self.time),
            divisor: self.config.mid_divisor,
        };
        let x = resnet(net, "resnets.0", &[x], &r)?;
        let x = self.attend(net, 0, x, block)?;
        resnet(net, "resnets.1", &[x], &r)
    }

    fn up(
        &self,
        net: &mut Net<'_>,
        mut x: Value,
        block: &Block,
        skips: &mut Vec<Value>,
    ) -> Result<Value> {
        for i in 0..block.layers {
            let skip = skips.pop().ok_or_else(|| net.shape(x, "skip", "one left over"))?;
            // Without a middle block both are one value, and no operation takes a value twice.
            if x == skip {
                x = net.rec.apply(Affine { scale: 1.0, shift: 0.0 }, &[x])?;
            }
            // not joined: the block reads both where they are
            x = self.resnet(net, i, &[x, skip], block.channels)?;
            x = self.attend(net, i, x, block)?;
        }
        let Some(next) = skips.last() else { return Ok(x) };
        let [_, h, w, _] = net.image_dims(*next)?;
        let [_, own_h, own_w, _] = net.image_dims(x)?;
        net.within("upsamplers.0", |net| {
            if [h, w] == [2 * own_h, 2 * own_w] {
                return conv(net, "conv", x, Conv::double(block.channels));
            }
            let x = net.rec.apply(Nearest { h, w }, &[x])?;
            conv(net, "conv", x, Conv::same(block.channels, 3))
        })
    }
}

/// Time embedding, plus the embedding of pooled text and time ids.
fn time_embedding(net: &mut Net<'_>, config: &UnetConfig, inputs: &UnetInputs) -> Result<Value> {
    let sinusoid = |dim| Sinusoid {
        dim,
        flip_sin_to_cos: config.flip_sin_to_cos,
        shift: config.freq_shift,
        max_period: MAX_PERIOD,
    };
    let t = net.rec.apply(sinusoid(config.down[0].channels), &[inputs.timestep])?;
    let t = net.rec.compute(t)?;
    let emb = embedding_mlp(net, "time_embedding", t, config.time_dim)?;
    let Some(extra) = &config.text_time else { return Ok(emb) };
    let (Some(pooled), Some(ids)) = (inputs.text_embeds, inputs.time_ids) else {
        return Err(missing("text_embeds and time_ids"));
    };
    let t = net.rec.apply(sinusoid(extra.id_dim), &[ids])?;
    let (t, pooled) = (net.rec.compute(t)?, net.rec.compute(pooled)?);
    let n = net.dims(ids)[0];
    let t = net.rec.view(t, &[n, extra.input_dim - net.channels(pooled)])?;
    let both = net.rec.apply(Concat, &[pooled, t])?;
    let more = embedding_mlp(net, "add_embedding", both, config.time_dim)?;
    net.add(emb, more)
}

fn missing(what: &str) -> Error {
    Error::Data {
        at: "unet".into(),
        found: format!("no {what}"),
        expected: "them, because addition_embed_type is text_time".into(),
        fix: "give both inputs".into(),
    }
}

fn check(net: &Net<'_>, config: &UnetConfig, inputs: &UnetInputs) -> Result<()> {
    let [n, _, _, c] = net.image_dims(inputs.sample)?;
    if c != config.in_channels {
        let want = format!("{} channels, last", config.in_channels);
        return Err(net.shape(inputs.sample, "sample", want));
    }
    if net.dims(inputs.timestep) != [n] {
        return Err(net.shape(inputs.timestep, "timestep", format!("[{n}]")));
    }
    let [m, _, width] = net.token_dims(inputs.context)?;
    let want = config.context_dim().unwrap_or(width);
    if m != n || width != want {
        let want = format!("[{n}, tokens, {want}]");
        return Err(net.shape(inputs.context, "encoder_hidden_states", want));
    }
    let (Some(extra), Some(pooled), Some(ids)) =
        (&config.text_time, inputs.text_embeds, inputs.time_ids)
    else {
        return Ok(());
    };
    let (p, i) = (net.dims(pooled), net.dims(ids));
    match (p.as_slice(), i.as_slice()) {
        ([a, d], [b, k]) if *a == n && *b == n && d + k * extra.id_dim == extra.input_dim => Ok(()),
        ([_, d], _) if *d == extra.pooled_dim() => {
            Err(net.shape(ids, "time_ids", format!("[{n}, 6]")))
        }
        _ => Err(net.shape(pooled, "text_embeds", format!("[{n}, {}]", extra.pooled_dim()))),
    }
}
