//! The two ways a U-Net's modules are numbered: by blocks (diffusers) and in one row (the original
//! files).

use std::collections::BTreeSet;

/// Maps module and parameter paths between the original numbering (`input_blocks.4.1.proj_in`) and
/// the diffusers one (`down_blocks.1.attentions.0.proj_in`).
///
/// With `L` resnets a down block: `input_blocks.n` is layer `(n-1) % (L+1)` of block `(n-1) /
/// (L+1)` (the last layer is the downsampler), `output_blocks.n` is layer `n % (L+1)` of block `n /
/// (L+1)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sgm {
    /// Resnets of a down block.
    layers: usize,
    /// Up blocks that hold attention: their upsampler comes third instead of second.
    attended: BTreeSet<usize>,
}

const HEADS: [(&str, &str); 7] = [
    ("time_embed.0", "time_embedding.linear_1"),
    ("time_embed.2", "time_embedding.linear_2"),
    ("label_emb.0.0", "add_embedding.linear_1"),
    ("label_emb.0.2", "add_embedding.linear_2"),
    ("input_blocks.0.0", "conv_in"),
    ("out.0", "conv_norm_out"),
    ("out.2", "conv_out"),
];
const MIDDLE: [(&str, &str); 3] = [("0", "resnets.0"), ("1", "attentions.0"), ("2", "resnets.1")];
const RESNET: [(&str, &str); 6] = [
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
];

/// `name` with its leading path replaced by the table, at a dot or the end; `None` without a match.
pub fn renamed<'t>(
    name: &str,
    table: impl IntoIterator<Item = (&'t str, &'t str)>,
) -> Option<String> {
    table.into_iter().find_map(|(from, to)| {
        let rest = name.strip_prefix(from)?;
        (rest.is_empty() || rest.starts_with('.')).then(|| format!("{to}{rest}"))
    })
}

fn swapped<'t>(table: &[(&'t str, &'t str)]) -> impl Iterator<Item = (&'t str, &'t str)> {
    table.iter().map(|(a, b)| (*b, *a))
}

/// `3.rest` as `(3, "rest")`; `(3, "")` for a bare number.
fn number(text: &str) -> Option<(usize, &str)> {
    let (head, rest) = text.split_once('.').unwrap_or((text, ""));
    (!head.is_empty() && head.bytes().all(|b| b.is_ascii_digit()))
        .then(|| head.parse().ok().map(|n| (n, rest)))
        .flatten()
}

fn join(head: String, tail: &str) -> String {
    if tail.is_empty() { head } else { format!("{head}.{tail}") }
}

impl Sgm {
    /// The numbering of SD 1.5, SD 2.1 and SDXL: two resnets a block.
    pub fn standard(attended: impl IntoIterator<Item = usize>) -> Self {
        Self { layers: 2, attended: attended.into_iter().collect() }
    }

    /// The numbering of the model whose original names (without prefix) are `names`.
    pub fn of_original<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let (mut layers, mut highest) = (usize::MAX, 0);
        for (n, tail) in names.into_iter().filter_map(|x| number(x.strip_prefix("input_blocks.")?))
        {
            highest = highest.max(n);
            if tail.starts_with("0.op") && n > 0 {
                layers = layers.min(n - 1);
            }
        }
        Self {
            layers: if layers == usize::MAX { highest } else { layers },
            attended: BTreeSet::new(),
        }
    }

    /// The numbering of the model whose diffusers paths are `names`.
    pub fn of_diffusers<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let (mut layers, mut attended) = (0, BTreeSet::new());
        for name in names {
            let up = name.strip_prefix("up_blocks.").and_then(number);
            let down = name.strip_prefix("down_blocks.").and_then(number);
            attended
                .extend(up.filter(|(_, t)| t.starts_with("attentions.")).map(|(block, _)| block));
            let resnet = down.and_then(|(_, tail)| number(tail.strip_prefix("resnets.")?));
            layers = layers.max(resnet.map_or(0, |(j, _)| j + 1));
        }
        Self { layers, attended }
    }

    /// Resnets of a down block.
    pub fn layers(&self) -> usize {
        self.layers
    }

    /// The diffusers path of an original one; `None` for a name outside the grammar.
    pub fn to_diffusers(&self, name: &str) -> Option<String> {
        if let Some(head) = renamed(name, HEADS) {
            return Some(head);
        }
        let resnet = |tail: &str| {
            if tail.is_empty() { Some(String::new()) } else { renamed(tail, RESNET) }
        };
        if let Some(rest) = name.strip_prefix("middle_block.") {
            let (inner, tail) = number(rest)?;
            let tail = if inner == 1 { tail.to_string() } else { resnet(tail)? };
            let (_, kind) = MIDDLE.get(inner)?;
            return Some(join(format!("mid_block.{kind}"), &tail));
        }
        let (down, rest) = match name.strip_prefix("input_blocks.") {
            Some(rest) => (true, rest),
            None => (false, name.strip_prefix("output_blocks.")?),
        };
        let (n, rest) = number(rest)?;
        let (inner, tail) = number(rest)?;
        let n = if down { n.checked_sub(1)? } else { n };
        let (block, layer) = (n / (self.layers + 1), n % (self.layers + 1));
        let side = if down { "down" } else { "up" };
        let sampler = if down { "op" } else { "conv" };
        let last = layer == self.layers && (inner == 0) == down;
        if let Some(tail) = renamed(tail, [(sampler, "conv")]).filter(|_| last) {
            return Some(format!("{side}_blocks.{block}.{side}samplers.0.{tail}"));
        }
        match inner {
            _ if down && layer == self.layers => None,
            0 => Some(join(format!("{side}_blocks.{block}.resnets.{layer}"), &resnet(tail)?)),
            1 => Some(join(format!("{side}_blocks.{block}.attentions.{layer}"), tail)),
            _ => None,
        }
    }

    /// The original path of a diffusers one; `None` for a name outside the grammar.
    pub fn to_original(&self, name: &str) -> Option<String> {
        if let Some(head) = renamed(name, swapped(&HEADS)) {
            return Some(head);
        }
        let resnet = |tail: &str| {
            if tail.is_empty() { Some(String::new()) } else { renamed(tail, swapped(&RESNET)) }
        };
        if let Some(rest) = name.strip_prefix("mid_block.") {
            let inner = renamed(rest, swapped(&MIDDLE))?;
            let (at, tail) = number(&inner)?;
            let tail = if at == 1 { tail.to_string() } else { resnet(tail)? };
            return Some(join(format!("middle_block.{at}"), &tail));
        }
        let (down, rest) = match name.strip_prefix("down_blocks.") {
            Some(rest) => (true, rest),
            None => (false, name.strip_prefix("up_blocks.")?),
        };
        let (block, rest) = number(rest)?;
        let (side, first) = if down { ("input", 1) } else { ("output", 0) };
        let at =
            |layer: usize| format!("{side}_blocks.{}", block * (self.layers + 1) + layer + first);
        let (kind, rest) = rest.split_once('.')?;
        let (layer, tail) = number(rest)?;
        match kind {
            "resnets" => Some(join(format!("{}.0", at(layer)), &resnet(tail)?)),
            "attentions" => Some(join(format!("{}.1", at(layer)), tail)),
            "downsamplers" if down && layer == 0 => {
                Some(format!("{}.0.{}", at(self.layers), renamed(tail, [("conv", "op")])?))
            }
            "upsamplers" if !down && layer == 0 => {
                let inner = if self.attended.contains(&block) { 2 } else { 1 };
                Some(format!("{}.{inner}.{}", at(self.layers), renamed(tail, [("conv", "conv")])?))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sdxl_landmarks_map_both_ways() {
        let sgm = Sgm::standard([0, 1]);
        for (original, diffusers) in [
            ("input_blocks.0.0.weight", "conv_in.weight"),
            ("input_blocks.1.0.in_layers.2.bias", "down_blocks.0.resnets.0.conv1.bias"),
            ("input_blocks.3.0.op.weight", "down_blocks.0.downsamplers.0.conv.weight"),
            ("input_blocks.4.1.proj_in", "down_blocks.1.attentions.0.proj_in"),
            ("input_blocks.4.0.skip_connection", "down_blocks.1.resnets.0.conv_shortcut"),
            ("input_blocks.8.1.norm.weight", "down_blocks.2.attentions.1.norm.weight"),
            ("middle_block.1.proj_out.weight", "mid_block.attentions.0.proj_out.weight"),
            ("middle_block.2.out_layers.3.bias", "mid_block.resnets.1.conv2.bias"),
            ("output_blocks.0.1.norm.bias", "up_blocks.0.attentions.0.norm.bias"),
            ("output_blocks.2.2.conv.weight", "up_blocks.0.upsamplers.0.conv.weight"),
            ("output_blocks.8.0.emb_layers.1.bias", "up_blocks.2.resnets.2.time_emb_proj.bias"),
            ("label_emb.0.2.bias", "add_embedding.linear_2.bias"),
            ("out.2.weight", "conv_out.weight"),
        ] {
            assert_eq!(sgm.to_diffusers(original).as_deref(), Some(diffusers), "{original}");
            assert_eq!(sgm.to_original(diffusers).as_deref(), Some(original), "{diffusers}");
        }
    }

    #[test]
    fn a_block_without_attention_has_its_upsampler_second() {
        let sgm = Sgm::standard([1, 2, 3]);
        let (original, diffusers) = ("output_blocks.2.1.conv", "up_blocks.0.upsamplers.0.conv");
        assert_eq!(sgm.to_original(diffusers).as_deref(), Some(original));
        assert_eq!(sgm.to_diffusers(original).as_deref(), Some(diffusers));
    }

    #[test]
    fn names_outside_the_grammar_have_no_partner() {
        let sgm = Sgm::standard([0]);
        for name in ["", "input_blocks", "input_blocks.x.0", "input_blocks.3.0.in_layers.0", "foo"]
        {
            assert_eq!(sgm.to_diffusers(name), None, "{name}");
        }
        for name in ["down_blocks.0", "down_blocks.0.resnets", "up_blocks.1.downsamplers.0.conv"] {
            assert_eq!(sgm.to_original(name), None, "{name}");
        }
    }
}
