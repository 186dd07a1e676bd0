//! An operation from its printed form: `Conv2d { stride: 1, pad: [1, 1, 1, 1], bias: false }`.

use crate::{
    kernels::{
        activation, add, affine, attention, cast, concat, conv2d, cosine, depthwise, diffuse,
        embedding, geglu, group_norm, latent_mix, layer_norm, linear, lora_linear, loss, moe,
        multiply, noise, posterior, resize, slice, windows,
    },
    op::Op,
    tensor::DType,
};
use linear::{
    fused::{FusedLinear, Then},
    gated::{FeedForward, GatedLinear},
};
use std::str::FromStr;
use std::sync::Arc;

/// A printed value.
#[derive(Clone, Debug, PartialEq)]
enum Printed {
    /// A number, or a name without named fields.
    Word(String),
    /// `[a, b]`.
    List(Vec<Printed>),
    /// `Name { field: value }`.
    Struct(String, Vec<(String, Printed)>),
}

impl Printed {
    /// Reads one value from the start of `text`; what is left.
    fn read(text: &str) -> Option<(Self, &str)> {
        let text = text.trim_start();
        if let Some(mut rest) = text.strip_prefix('[') {
            let mut items = vec![];
            loop {
                rest = rest.trim_start().trim_start_matches(',').trim_start();
                if let Some(rest) = rest.strip_prefix(']') {
                    return Some((Printed::List(items), rest));
                }
                let (item, left) = Self::read(rest)?;
                items.push(item);
                rest = left;
            }
        }
        let end = text.find(|c: char| ",]}{: ".contains(c)).unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        if word.is_empty() {
            return None;
        }
        let Some(mut rest) = rest.trim_start().strip_prefix('{') else {
            return Some((Printed::Word(word.into()), rest));
        };
        let mut fields = vec![];
        loop {
            rest = rest.trim_start().trim_start_matches(',').trim_start();
            if let Some(rest) = rest.strip_prefix('}') {
                return Some((Printed::Struct(word.into(), fields), rest));
            }
            let (name, left) = rest.split_once(':')?;
            let (value, left) = Self::read(left)?;
            fields.push((name.trim().to_string(), value));
            rest = left;
        }
    }

    fn name(&self) -> &str {
        match self {
            Printed::Word(name) | Printed::Struct(name, _) => name,
            Printed::List(_) => "",
        }
    }

    fn field(&self, name: &str) -> Option<&Printed> {
        match self {
            Printed::Struct(_, fields) => fields.iter().find(|f| f.0 == name).map(|f| &f.1),
            _ => None,
        }
    }

    fn word<T: FromStr>(&self) -> Option<T> {
        match self {
            Printed::Word(word) => word.parse().ok(),
            _ => None,
        }
    }

    fn words<T: FromStr>(&self) -> Option<Vec<T>> {
        match self {
            Printed::List(items) => items.iter().map(Self::word).collect(),
            _ => None,
        }
    }

    /// The field `name` as a number, a truth value or a name.
    fn get<T: FromStr>(&self, name: &str) -> Option<T> {
        self.field(name)?.word()
    }

    fn array<T: FromStr, const N: usize>(&self, name: &str) -> Option<[T; N]> {
        self.field(name)?.words()?.try_into().ok()
    }
}

/// The operation that prints as `text`; `None` for one this program does not have.
pub fn operation(text: &str) -> Option<Arc<dyn Op>> {
    let (p, rest) = Printed::read(text)?;
    if !rest.trim().is_empty() {
        return None;
    }
    let p = &p;
    Some(match p.name() {
        "Activation" => Arc::new(activation::Activation { kind: kind(p.field("kind")?.name())? }),
        "Add" => Arc::new(add::Add),
        "AddChannels" => Arc::new(add::AddChannels),
        "Affine" => Arc::new(affine::Affine { scale: p.get("scale")?, shift: p.get("shift")? }),
        "Attention" => {
            let (causal, scale) = (p.get("causal")?, p.get("scale")?);
            let products = dtype(p, "products")?;
            Arc::new(attention::Attention { causal, scale, products })
        }
        "BatchedLinear" => Arc::new(linear::BatchedLinear),
        "BiasedAttention" => Arc::new(attention::BiasedAttention {
            scale: p.get("scale")?,
            grid: p.array("grid")?,
            bias: bias(p)?,
        }),
        "Cast" => Arc::new(cast::Cast { to: dtype(p, "to")? }),
        "Combine" => Arc::new(moe::Combine { top_k: p.get("top_k")? }),
        "Concat" => Arc::new(concat::Concat),
        "ConcatLinear" => Arc::new(linear::concat::ConcatLinear {
            bias: p.get("bias")?,
            residual: p.get("residual")?,
        }),
        "Conv2d" => Arc::new(conv2d::Conv2d {
            stride: p.get("stride")?,
            pad: p.array("pad")?,
            bias: p.get("bias")?,
            upsample: p.get("upsample")?,
        }),
        "Cosine" => Arc::new(cosine::Cosine),
        "ShiftedConv2d" => Arc::new(conv2d::ShiftedConv2d {
            stride: p.get("stride")?,
            pad: p.array("pad")?,
            bias: p.get("bias")?,
            upsample: p.get("upsample")?,
        }),
        "Dco" => Arc::new(loss::Dco { beta: p.get("beta")? }),
        "Depthwise" => {
            Arc::new(depthwise::Depthwise { stride: p.get("stride")?, pad: p.get("pad")? })
        }
        "Diffuse" => Arc::new(diffuse::Diffuse { mix: mix(p)? }),
        // recordings of before there were added rows do not say so
        "Embedding" => Arc::new(embedding::Embedding { added: p.get("added").unwrap_or(false) }),
        "Experts" => Arc::new(moe::Experts),
        "FeedForward" => {
            Arc::new(FeedForward { bias: p.array("bias")?, residual: p.get("residual")? })
        }
        "FusedLinear" => Arc::new(FusedLinear {
            bias: p.get("bias")?,
            residual: p.get("residual")?,
            then: then(p.field("then")?.name())?,
        }),
        "GatherRows" => Arc::new(embedding::GatherRows),
        "GatedLinear" => Arc::new(GatedLinear { bias: p.get("bias")? }),
        "Geglu" => Arc::new(geglu::Geglu),
        "GroupNorm" => Arc::new(group_norm::GroupNorm {
            groups: p.get("groups")?,
            eps: p.get("eps")?,
            silu: p.get("silu")?,
            // recordings of before there were parts do not say so
            concat: p.get("concat").unwrap_or(false),
        }),
        "Joined" => {
            Arc::new(linear::joined::Joined { bias: p.get("bias")?, parts: p.get("parts")? })
        }
        "JoinedLora" => Arc::new(lora_linear::joined::JoinedLora {
            bias: p.get("bias")?,
            parts: p.get("parts")?,
            scale: p.get("scale")?,
        }),
        "LatentMix" => Arc::new(latent_mix(p)?),
        "LayerNorm" => Arc::new(layer_norm::LayerNorm { eps: p.get("eps")? }),
        "Linear" => Arc::new(linear::Linear { bias: p.get("bias")? }),
        // recordings of before there were residuals do not say so
        "LoraLinear" => Arc::new(lora_linear::LoraLinear {
            bias: p.get("bias")?,
            residual: p.get("residual").unwrap_or(false),
            scale: p.get("scale")?,
        }),
        "MaskedMse" => Arc::new(loss::MaskedMse),
        "MeanTokens" => Arc::new(cosine::MeanTokens),
        "Multiply" => Arc::new(multiply::Multiply),
        "MultiplyChannels" => Arc::new(multiply::MultiplyChannels),
        "Nearest" => Arc::new(resize::Nearest { h: p.get("h")?, w: p.get("w")? }),
        "Bilinear" => Arc::new(resize::Bilinear { h: p.get("h")?, w: p.get("w")? }),
        "Normal" => Arc::new(noise::Normal { dims: p.field("dims")?.words()? }),
        "Partition" => Arc::new(windows::Partition { window: p.array("window")? }),
        "Permute" => Arc::new(moe::Permute { experts: p.get("experts")?, slots: p.get("slots")? }),
        "Posterior" => Arc::new(posterior::Posterior { scale: p.get("scale")? }),
        "Route" => Arc::new(moe::Route { slots: p.get("slots")? }),
        "Sinusoid" => Arc::new(embedding::Sinusoid {
            dim: p.get("dim")?,
            flip_sin_to_cos: p.get("flip_sin_to_cos")?,
            shift: p.get("shift")?,
            max_period: p.get("max_period")?,
        }),
        "Slice" => Arc::new(slice::Slice { from: p.get("from")?, len: p.get("len")? }),
        "Unpartition" => {
            Arc::new(windows::Unpartition { window: p.array("window")?, size: p.array("size")? })
        }
        _ => return None,
    })
}

fn bias(p: &Printed) -> Option<attention::Bias> {
    match p.field("bias")?.name() {
        "Decomposed" => Some(attention::Bias::Decomposed),
        "Offsets" => Some(attention::Bias::Offsets),
        _ => None,
    }
}

fn kind(name: &str) -> Option<activation::Kind> {
    use activation::Kind;
    match name {
        "Silu" => Some(Kind::Silu),
        "Gelu" => Some(Kind::Gelu),
        "QuickGelu" => Some(Kind::QuickGelu),
        "Relu" => Some(Kind::Relu),
        "Tanh" => Some(Kind::Tanh),
        "Elu" => Some(Kind::Elu),
        "Sigmoid" => Some(Kind::Sigmoid),
        _ => None,
    }
}

fn then(name: &str) -> Option<Then> {
    match name {
        "Nothing" => Some(Then::Nothing),
        "Geglu" => Some(Then::Geglu),
        _ => kind(name.strip_prefix("Activation(")?.strip_suffix(')')?).map(Then::Activation),
    }
}

fn dtype(p: &Printed, field: &str) -> Option<DType> {
    match p.field(field)?.name() {
        "F32" => Some(DType::F32),
        "Bf16" => Some(DType::Bf16),
        "F16" => Some(DType::F16),
        _ => None,
    }
}

fn mix(p: &Printed) -> Option<diffuse::Noising> {
    match p.field("mix")?.name() {
        "Noisy" => Some(diffuse::Noising::Noisy),
        "Velocity" => Some(diffuse::Noising::Velocity),
        _ => None,
    }
}

fn latent_mix(p: &Printed) -> Option<latent_mix::LatentMix> {
    Some(latent_mix::LatentMix {
        gamma: p.get("gamma")?,
        noise: match p.field("noise")?.name() {
            "Given" => latent_mix::Noise::Given,
            "Seeded" => latent_mix::Noise::Seeded,
            _ => return None,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls on flat buffers after a program: none of its steps, so nothing captures them.
    const NO_STEPS: [&str; 3] = ["adamw", "grad_norm", "scheduler"];

    #[test]
    fn every_operation_of_the_cases_is_read_back_from_its_printed_form() {
        let steps = crate::kernels::cases().into_iter();
        for case in steps.filter(|c| !NO_STEPS.contains(&c.op.name())) {
            let text = format!("{:?}", case.op);
            let read = operation(&text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(format!("{read:?}"), text);
        }
    }

    #[test]
    fn damaged_text_is_no_operation() {
        for text in ["", "Linear", "Linear { bias: 3 }", "Linear { bias: true", "Nothing", "[1, 2"]
        {
            assert!(operation(text).is_none(), "{text}");
        }
        let text = "Conv2d { stride: 1, pad: [1, 1, 1], bias: false, upsample: false }";
        assert!(operation(text).is_none(), "three pads");
    }
}
