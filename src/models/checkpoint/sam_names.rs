//! Names of Segment Anything's parameters: transformers' below the component, from transformers' and the original ones.

use crate::lora::renamed;

/// The position matrix.
pub const POSITIONS: &str = "shared_image_embedding.positional_embedding";

/// The parts that belong to the other component.
const ENCODERS: [&str; 2] = ["vision_encoder.", "image_encoder."];
const DECODERS: [&str; 3] = ["prompt_encoder.", "mask_decoder.", "shared_image_embedding."];

fn begins(name: &str, parts: &[&str]) -> bool {
    parts.iter().any(|p| name.starts_with(p))
}

/// The encoder's own name of a tensor of transformers' file; `None` for the decoder's.
pub fn encoder(name: &str) -> Option<String> {
    if begins(name, &DECODERS) {
        return None;
    }
    Some(name.strip_prefix("vision_encoder.").unwrap_or(name).to_string())
}

/// The decoder's own name of a tensor of transformers' file; `None` for the encoder's.
pub fn decoder(name: &str) -> Option<String> {
    if begins(name, &ENCODERS) {
        return None;
    }
    let copy = "prompt_encoder.shared_embedding.positional_embedding";
    Some(if name == copy { POSITIONS.into() } else { name.into() })
}

const VIT: [(&str, &str); 5] = [
    ("patch_embed.proj", "patch_embed.projection"),
    ("neck.0", "neck.conv1"),
    ("neck.1", "neck.layer_norm1"),
    ("neck.2", "neck.conv2"),
    ("neck.3", "neck.layer_norm2"),
];

/// The encoder's own name of a tensor of segment_anything's file; `None` for the decoder's. What it does not know keeps
/// its name, and is no parameter then.
pub fn original_encoder(name: &str) -> Option<String> {
    if begins(name, &DECODERS) {
        return None;
    }
    let Some(own) = name.strip_prefix("image_encoder.") else { return Some(name.into()) };
    if let Some(to) = renamed(own, VIT) {
        return Some(to);
    }
    let block = own.strip_prefix("blocks.").and_then(|t| t.split_once('.'));
    if let Some((i, tail)) = block {
        let norms = [("norm1", "layer_norm1"), ("norm2", "layer_norm2")];
        let kept = ["attn.", "mlp."].iter().any(|p| tail.starts_with(p));
        let tail = renamed(tail, norms).or_else(|| kept.then(|| tail.to_string()));
        if let Some(tail) = tail {
            return Some(format!("layers.{i}.{tail}"));
        }
    }
    Some(if own == "pos_embed" { own.into() } else { name.into() })
}

/// The name in segment_anything's file of a parameter of the encoder, for a message.
pub fn original_of_encoder(own: &str) -> String {
    let back = VIT.map(|(from, to)| (to, from));
    let own = renamed(own, back).unwrap_or_else(|| own.to_string());
    let own = own.strip_prefix("layers.").map_or_else(|| own.clone(), |t| format!("blocks.{t}"));
    format!("image_encoder.{own}")
}

/// A name of MobileSAM's encoder below `image_encoder.`; `None` for the decoder's and for what is not used.
pub fn mobile(name: &str) -> Option<String> {
    let unused = ["image_encoder.norm_head.", "image_encoder.head."];
    if begins(name, &DECODERS) || begins(name, &unused) || name.ends_with(".num_batches_tracked") {
        return None;
    }
    Some(name.strip_prefix("image_encoder.").unwrap_or(name).to_string())
}

const DECODER: [(&str, &str); 13] = [
    ("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", POSITIONS),
    ("prompt_encoder.point_embeddings", "prompt_encoder.point_embed"),
    ("prompt_encoder.not_a_point_embed", "prompt_encoder.not_a_point_embed"),
    ("prompt_encoder.no_mask_embed", "prompt_encoder.no_mask_embed"),
    ("prompt_encoder.mask_downscaling.0", "prompt_encoder.mask_embed.conv1"),
    ("prompt_encoder.mask_downscaling.1", "prompt_encoder.mask_embed.layer_norm1"),
    ("prompt_encoder.mask_downscaling.3", "prompt_encoder.mask_embed.conv2"),
    ("prompt_encoder.mask_downscaling.4", "prompt_encoder.mask_embed.layer_norm2"),
    ("prompt_encoder.mask_downscaling.6", "prompt_encoder.mask_embed.conv3"),
    ("mask_decoder.output_upscaling.0", "mask_decoder.upscale_conv1"),
    ("mask_decoder.output_upscaling.1", "mask_decoder.upscale_layer_norm"),
    ("mask_decoder.output_upscaling.3", "mask_decoder.upscale_conv2"),
    ("mask_decoder.transformer.norm_final_attn", "mask_decoder.transformer.layer_norm_final_attn"),
];

/// The decoder's own name of a tensor of a file that holds `all`, segment_anything's names; `None` for the encoder's.
pub fn original_decoder(name: &str, all: &[String]) -> Option<String> {
    if begins(name, &ENCODERS) {
        return None;
    }
    Some(in_transformer(name).or_else(|| in_head(name, all)).unwrap_or_else(|| {
        let kept = ["mask_decoder.iou_token.", "mask_decoder.mask_tokens."];
        match renamed(name, DECODER) {
            Some(to) => to,
            None if begins(name, &kept) => name.into(),
            // transformers' own names mean nothing in such a file
            None => format!("{name} (original names)"),
        }
    }))
}

fn in_transformer(name: &str) -> Option<String> {
    let tail = name.strip_prefix("mask_decoder.transformer.")?;
    let own = match tail.strip_prefix("layers.").and_then(|t| t.split_once('.')) {
        Some((i, rest)) => {
            let norms = ["norm1", "norm2", "norm3", "norm4"];
            let to = norms.map(|n| format!("layer_{n}"));
            let table = [0, 1, 2, 3].map(|i| (norms[i], to[i].as_str()));
            format!("layers.{i}.{}", renamed(rest, table).unwrap_or_else(|| rest.into()))
        }
        None if tail.starts_with("final_attn_token_to_image.") => tail.into(),
        None => return None,
    };
    Some(format!("mask_decoder.transformer.{own}"))
}

/// Layers of the quality's head and of the masks': the first is `proj_in`, the last `proj_out`.
fn in_head(name: &str, all: &[String]) -> Option<String> {
    let heads = ["mask_decoder.iou_prediction_head.", "mask_decoder.output_hypernetworks_mlps."];
    if !begins(name, &heads) {
        return None;
    }
    let (head, tail) = name.split_once("layers.")?;
    let (layer, kind) = tail.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let there = |i: &usize| {
        let prefix = format!("{head}layers.{i}.");
        all.iter().any(|n| n.starts_with(&prefix))
    };
    let own = match (0..).take_while(there).count().checked_sub(layer + 1)? {
        _ if layer == 0 => "proj_in".to_string(),
        0 => "proj_out".into(),
        _ => format!("layers.{}", layer - 1),
    };
    Some(format!("{head}{own}.{kind}"))
}

/// The name in segment_anything's file of a parameter of the decoder, for a message.
pub fn original_of_decoder(own: &str) -> String {
    let back = DECODER.map(|(from, to)| (to, from));
    let own = renamed(own, back).unwrap_or_else(|| own.to_string());
    own.replace(".proj_in.", ".layers.0.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_original_names_become_those_of_transformers() {
        for (from, to) in [
            ("image_encoder.pos_embed", "pos_embed"),
            ("image_encoder.patch_embed.proj.bias", "patch_embed.projection.bias"),
            ("image_encoder.blocks.11.norm2.weight", "layers.11.layer_norm2.weight"),
            ("image_encoder.blocks.0.attn.rel_pos_h", "layers.0.attn.rel_pos_h"),
            ("image_encoder.neck.3.weight", "neck.layer_norm2.weight"),
        ] {
            assert_eq!(original_encoder(from).as_deref(), Some(to));
        }
        let all: Vec<String> =
            (0..3).map(|i| format!("mask_decoder.iou_prediction_head.layers.{i}.weight")).collect();
        for (from, to) in [
            (all[0].as_str(), "mask_decoder.iou_prediction_head.proj_in.weight"),
            (&all[1], "mask_decoder.iou_prediction_head.layers.0.weight"),
            (&all[2], "mask_decoder.iou_prediction_head.proj_out.weight"),
            (
                "mask_decoder.transformer.layers.1.norm4.bias",
                "mask_decoder.transformer.layers.1.layer_norm4.bias",
            ),
            ("prompt_encoder.point_embeddings.3.weight", "prompt_encoder.point_embed.3.weight"),
            ("mask_decoder.output_upscaling.3.bias", "mask_decoder.upscale_conv2.bias"),
        ] {
            assert_eq!(original_decoder(from, &all).as_deref(), Some(to));
        }
        assert_eq!(original_decoder("image_encoder.pos_embed", &all), None);
        assert_eq!(original_encoder("mask_decoder.iou_token.weight"), None);
    }

    #[test]
    fn a_name_that_is_unknown_stays_unknown() {
        let strange = original_encoder("image_encoder.blocks.0.strange").unwrap();
        assert!(strange.starts_with("image_encoder."), "{strange}");
        let strange = original_decoder("mask_decoder.upscale_conv1.weight", &[]).unwrap();
        assert_ne!(strange, "mask_decoder.upscale_conv1.weight");
    }
}
