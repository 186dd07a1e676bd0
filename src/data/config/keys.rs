//! The list of keys with their meaning: what `--print-config` prints and what an unknown key is
//! compared with.

use super::{TrainConfig, preset};
use crate::error::Result;

/// Every key in dotted form with a one-line comment, in printing order.
pub(super) const KEYS: &[(&str, &str)] = &[
    ("base", "a diffusers folder, a single-file checkpoint, or \"nano\""),
    ("preset", "mudi-dco | mudi-v1: what keys left out are taken from; empty = none"),
    ("prediction", "auto | epsilon | v: what the base predicts; auto = what the checkpoint says"),
    ("method.name", "mudi | dreambooth | cut-mix | decoupled | disenbooth"),
    ("method.mix_probability", "probability that a training picture is a mix"),
    ("method.start_step", "no mixes before this step"),
    ("method.overlap", "whether the two subjects of a mix may overlap"),
    ("method.scale_min", "smallest factor drawn on a subject's own fit"),
    ("method.scale_max", "largest factor drawn on a subject's own fit"),
    ("method.margin", "largest distance from the side, pixels at 1024 (scaled to the resolution)"),
    ("method.soft_alpha", "loss weight outside the union mask of a mix; 1 = no masking"),
    ("method.loss", "mse | dco (dco goes without prior preservation)"),
    ("method.dco_beta", "strength of the DCO loss"),
    ("method.prior_preservation", "train on class pictures of the base model too"),
    ("method.prior_weight", "weight of the prior loss"),
    ("method.prior_images", "prior pictures per class"),
    ("method.prior_steps", "sampling steps of a prior picture (Euler)"),
    ("method.prior_guidance", "guidance of a prior picture"),
    ("method.prior_dir", "folder of the prior set; empty = inside the run folder"),
    ("method.min_snr_gamma", "clamp of the signal-to-noise loss weight; 0 = off"),
    ("decoupling.enabled", "with any method; decoupled and disenbooth always do"),
    ("decoupling.encoder", "a CLIP that looks at the photos; empty = the embedded one (nano)"),
    ("decoupling.diffusion", "weight of the diffusion loss (L1)"),
    ("decoupling.text_implicit", "weight of the cosine text / implicit feature, pushed down (L2)"),
    ("decoupling.implicit_explicit", "weight of the cosine implicit / explicit, pushed up (L3)"),
    ("decoupling.text_background", "weight of the cosine text / background, pushed down (L4)"),
    ("decoupling.weak", "weight of the diffusion loss of the text alone (DisenBooth: 0.01)"),
    ("decoupling.irrelevant_source", "explicit | implicit | mean: what is added to the text"),
    (
        "decoupling.train_text",
        "none | embedding (of the identifiers) | lora: what of the text side is trained",
    ),
    ("decoupling.drop", "probability that a sample's background is left out"),
    ("decoupling.drop_loss", "whole | subject: what the loss sees of such a sample"),
    ("decoupling.text_feature", "mean | end | concept: which vector stands for a text in a cosine"),
    ("decoupling.fusion", "whether a mixture of experts fuses text and background"),
    ("decoupling.experts", "how many there are"),
    ("decoupling.top_k", "how many count for a token; 0 = all"),
    ("decoupling.hidden", "width between an expert's layers; 0 = the text's"),
    ("decoupling.routing", "token | sequence: what chooses the experts"),
    ("decoupling.fill", "classical | base | a base's name: how subjects are taken out of photos"),
    ("decoupling.grow", "pixels the masks grow by before; -1 = 1 % of the longer side"),
    ("train.resolution", "side of the training pictures, pixels (nano: 128)"),
    ("train.steps", "optimizer steps"),
    ("train.batch", "pictures per pass"),
    ("train.accumulate", "passes per optimizer step"),
    ("train.learning_rate", "of the U-Net"),
    ("train.text_learning_rate", "of the text encoders"),
    ("train.schedule", "constant | cosine | linear"),
    ("train.warmup_steps", "steps of linear warm-up"),
    ("train.weight_decay", "decoupled, of the U-Net"),
    ("train.text_weight_decay", "decoupled, of the text encoders"),
    ("train.betas", "AdamW's two decay rates"),
    ("train.eps", "AdamW's epsilon"),
    ("train.clip_norm", "largest gradient norm; 0 = no clipping"),
    (
        "train.loss_scale",
        "auto | dynamic | a power of two; auto = dynamic in f16, none in f32 and bf16",
    ),
    ("train.mode", "lora | full"),
    ("train.rank", "adapter rank"),
    ("train.alpha", "adapter alpha; 0 = the rank; the adapter's factor is alpha / rank"),
    (
        "train.from",
        "adapter file to start from (peft, kohya or comfy; same layers and rank); empty = fresh",
    ),
    ("train.targets", "adapted U-Net layers: ends of names or regular expressions"),
    ("train.train_text_encoder", "adapters on the text encoders too"),
    ("train.text_targets", "adapted text-encoder layers"),
    ("train.parts", "trained weights in mode full: patterns on names such as unet.mid_block"),
    ("train.checkpoint_gradients", "recompute activations in the backward pass: less memory"),
    ("train.ema", "keep an exponential moving average"),
    ("train.ema_decay", "its decay"),
    ("train.cache_latents", "keep the VAE moments of un-mixed pictures"),
    ("train.seed", "seed of everything random"),
    ("train.save_every", "steps between checkpoints; 0 = only at the end"),
    ("train.keep_checkpoints", "checkpoints kept; 0 = all"),
    ("train.sample_every", "steps between sample pictures; 0 = never"),
    ("train.sample_prompts", "their prompts; empty = one made of all subjects"),
    ("train.sample_sampler", "euler | ddim | dpm++"),
    ("train.sample_steps", "sampling steps of the sample pictures"),
    ("train.sample_guidance", "guidance of the sample pictures"),
    ("train.sample_negative", "their negative prompt; auto = the method's, else the base's own"),
    ("train.sample_init", "auto | none | seg-mix: auto = seg-mix for mudi with masks"),
    ("train.sample_gamma", "strength of their initialization"),
    ("train.formats", "conventions the adapter is written in: peft, kohya, comfy"),
    (
        "segment.detector",
        "OWLv2 folder that finds subjects by their class; empty = masks lie beside the photos",
    ),
    ("segment.segmenter", "SAM or MobileSAM that cuts them out"),
    ("segment.threshold", "a photo is taken when exactly one box has a score above this"),
    ("segment.prior_threshold", "the same for prior pictures; up to 10 are made for each place"),
    (
        "segment.nms",
        "boxes that overlap a better one by more than this (IoU) are the same thing; 1 keeps all, as the paper",
    ),
    (
        "segment.margin",
        "growth of the box on every side, share of width and height; 0 for prior pictures",
    ),
    ("segment.padding", "grey | black: what fills a photo up to the detector's square"),
    (
        "caption.url",
        "an OpenAI-compatible endpoint (up to /chat/completions) that writes missing NN.txt; empty = nothing is sent",
    ),
    ("caption.model", "its vision model"),
    ("caption.key_env", "environment variable that holds its key; empty = no key is sent"),
];

/// The keys of one `[[subject]]` table: name, example, comment.
pub(super) const SUBJECT_KEYS: &[(&str, &str, &str)] = &[
    ("id", "\"a\"", "short name, unique"),
    ("token", "\"olis\"", "the identifier: a single, rare token"),
    ("class", "\"red monster plush\"", "descriptive class; default: class.txt beside the photos"),
    ("images", "\"photos/monster_toy\"", "NN.jpg|png|webp; NN_mask.png or alpha; captions NN.txt"),
    ("scale", "1.0", "relative size in mixes, (0, 1]; default: drawn from scale_min..scale_max"),
    ("prior_class", "\"\"", "class of the prior pictures; default: class"),
    ("query", "\"\"", "what detectors are asked for, a bare class (\"plush\"); default: class"),
];

/// Every key with its value in the preset `name` and its meaning, as a TOML file that can be read back.
///
/// # Errors
/// [`crate::error::Error::Config`] for an unknown preset.
pub fn print_config(name: &str) -> Result<String> {
    let table = toml::Table::try_from(TrainConfig::preset(name)?).unwrap_or_default();
    let mut out = format!("# presets (--preset, or the key below; this is {name}):\n");
    out += &preset::described();
    let mut section = "";
    for (key, comment) in KEYS {
        let (head, name) = key.split_once('.').unwrap_or(("", key));
        if head != section {
            out += &format!("\n[{head}]\n");
            section = head;
        }
        let value = match head {
            "" => table.get(name),
            _ => table.get(head).and_then(|t| t.get(name)),
        };
        let value = value.map_or_else(String::new, ToString::to_string);
        out += &format!("{:<52} # {comment}\n", format!("{name} = {value}"));
    }
    out += "\n# one table for each subject:\n# [[subject]]\n";
    for (name, example, comment) in SUBJECT_KEYS {
        out += &format!("# {:<50} # {comment}\n", format!("{name} = {example}"));
    }
    Ok(out)
}

/// The known name nearest to `name` by edit distance, when it is near at all.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|k| (distance(name, k), k))
        .min()
        .filter(|(d, k)| *d <= k.len().max(name.len()) * 2 / 3)
        .map(|(_, k)| k)
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_the_struct_is_listed_and_every_listed_key_exists() {
        let table = toml::Table::try_from(TrainConfig::default()).unwrap();
        let mut real = vec![];
        for (key, value) in &table {
            match value {
                toml::Value::Table(t) => real.extend(t.keys().map(|k| format!("{key}.{k}"))),
                _ if key == "subject" => {}
                _ => real.push(key.clone()),
            }
        }
        let mut listed: Vec<String> = KEYS.iter().map(|(k, _)| (*k).to_string()).collect();
        real.sort();
        listed.sort();
        assert_eq!(real, listed);
    }

    #[test]
    fn distance_counts_edits() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(
            nearest("learning_rat", ["rank", "learning_rate"].into_iter()),
            Some("learning_rate")
        );
    }
}
