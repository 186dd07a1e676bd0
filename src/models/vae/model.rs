//! Both halves of the autoencoder as straight lines.

use super::VaeConfig;
use crate::{
    error::Result,
    nn::{
        After, Attend, Bias, Conv, DIFFUSERS, Net, Resnet, attention, conv, conv1x1, group_norm,
        resnet,
    },
    plan::Value,
    tensor::DType,
};

/// Epsilon of every normalization.
const EPS: f32 = 1e-6;

/// Picture `[N, H, W, 3]` in -1..1 to moments `[N, h, w, 2 latent]` (mean, log variance).
///
/// # Errors
/// [`crate::error::Error::Shape`] for a picture that does not fit the configuration.
///
/// # Source
/// diffusers 0.42.1, `AutoencoderKL.encode` without the sampling.
pub fn encoder(net: &mut Net<'_>, config: &VaeConfig, sample: Value) -> Result<Value> {
    expect_channels(net, sample, config.in_channels)?;
    let sample = net.rec.compute(sample)?;
    let moments = net.within("encoder", |net| {
        let mut x = conv(net, "conv_in", sample, Conv::same(config.channels[0], 3))?;
        for (i, c) in config.channels.iter().enumerate() {
            let last = i + 1 == config.channels.len();
            x = net.within(&format!("down_blocks.{i}"), |net| {
                let x = resnets(net, config, x, (*c, config.layers))?;
                if last {
                    return Ok(x);
                }
                net.within("downsamplers.0", |net| conv(net, "conv", x, Conv::halve(*c, 0)))
            })?;
        }
        let x = middle(net, config, x)?;
        let x = group_norm(net, "conv_norm_out", x, (config.groups, EPS), After::Silu)?;
        conv(net, "conv_out", x, Conv::same(2 * config.latent_channels, 3))
    })?;
    let moments = match config.quant_conv {
        true => conv1x1(net, "quant_conv", moments, 2 * config.latent_channels)?,
        false => moments,
    };
    net.rec.cast(moments, DType::F32)
}

/// Unscaled latent `[N, h, w, latent]` to picture `[N, H, W, 3]`.
///
/// # Errors
/// [`crate::error::Error::Shape`] for a latent that does not fit the configuration.
///
/// # Source
/// diffusers 0.42.1, `AutoencoderKL.decode`.
pub fn decoder(net: &mut Net<'_>, config: &VaeConfig, latent: Value) -> Result<Value> {
    expect_channels(net, latent, config.latent_channels)?;
    let latent = net.rec.compute(latent)?;
    let x = match config.post_quant_conv {
        true => conv1x1(net, "post_quant_conv", latent, config.latent_channels)?,
        false => latent,
    };
    let picture = net.within("decoder", |net| {
        let deepest = config.channels[config.channels.len() - 1];
        let x = conv(net, "conv_in", x, Conv::same(deepest, 3))?;
        let mut x = middle(net, config, x)?;
        for (i, c) in config.channels.iter().rev().enumerate() {
            let last = i + 1 == config.channels.len();
            x = net.within(&format!("up_blocks.{i}"), |net| {
                let x = resnets(net, config, x, (*c, config.layers + 1))?;
                if last {
                    return Ok(x);
                }
                net.within("upsamplers.0", |net| conv(net, "conv", x, Conv::double(*c)))
            })?;
        }
        let x = group_norm(net, "conv_norm_out", x, (config.groups, EPS), After::Silu)?;
        conv(net, "conv_out", x, Conv::same(config.out_channels, 3))
    })?;
    net.rec.cast(picture, DType::F32)
}

fn residual(config: &VaeConfig, out: usize) -> Resnet {
    Resnet { out, norm: (config.groups, EPS), time: None, divisor: 1.0 }
}

fn resnets(
    net: &mut Net<'_>,
    config: &VaeConfig,
    mut x: Value,
    (channels, layers): (usize, usize),
) -> Result<Value> {
    for i in 0..layers {
        x = resnet(net, &format!("resnets.{i}"), &[x], &residual(config, channels))?;
    }
    Ok(x)
}

/// Residual block, one-head attention over all pixels, residual block.
fn middle(net: &mut Net<'_>, config: &VaeConfig, x: Value) -> Result<Value> {
    let c = net.channels(x);
    net.within("mid_block", |net| {
        let mut x = resnet(net, "resnets.0", &[x], &residual(config, c))?;
        if config.mid_attention {
            x = net.segment("attentions.0", |net| pixel_attention(net, config, x))?;
        }
        resnet(net, "resnets.1", &[x], &residual(config, c))
    })
}

fn pixel_attention(net: &mut Net<'_>, config: &VaeConfig, x: Value) -> Result<Value> {
    let [n, h, w, c] = net.image_dims(x)?;
    let attend = Attend {
        heads: 1,
        head_dim: c,
        out: c,
        names: DIFFUSERS,
        bias: Bias::Learned,
        causal: false,
    };
    let y = group_norm(net, "group_norm", x, (config.groups, EPS), After::Nothing)?;
    let y = net.rec.view(y, &[n, h * w, c])?;
    let y = attention(net, y, y, &attend)?;
    let y = net.rec.view(y, &[n, h, w, c])?;
    net.add(x, y)
}

fn expect_channels(net: &Net<'_>, x: Value, channels: usize) -> Result<()> {
    match net.image_dims(x)?[3] == channels {
        true => Ok(()),
        false => Err(net.shape(x, "sample", format!("{channels} channels, last"))),
    }
}
