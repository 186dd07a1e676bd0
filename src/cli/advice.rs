//! What a command says about settings that are probably not meant.

use super::common::{note, warn};
use crate::{
    data::{
        TrainConfig,
        config::{Method, Target},
    },
    models::{base::Base, noise::Prediction, tokenizer::Tokenizer},
    train::text_is_trained,
};

/// Says what is probably not meant.
pub fn advise(config: &TrainConfig, base: &Base) {
    let side = base.side();
    if config.train.resolution != side {
        let resolution = config.train.resolution;
        note(&format!("train.resolution is {resolution}; this base was made for {side}"));
    }
    doubt(base);
    let m = &config.method;
    let (count, p) = (config.subjects.len(), m.mix_probability);
    if m.name == Method::Mudi && count > 2 && p > 0.0 && p < 0.5 {
        note(&format!(
            "method.mix_probability is {p}, published for two subjects; for {count} a higher one is \
             advised, 0.5 to 0.6"
        ));
    }
    let d = &config.decoupling;
    if config.decouples() && d.text_background != 0.0 && !text_is_trained(config) {
        note(
            "decoupling.text_background: nothing of the text is trained, so the cosine of text and background is a \
             constant where the image encoder has the text's width; decoupling.train_text = \"lora\" or \"embedding\" trains it",
        );
    }
    let Some(tokenizer) = base.text.first().map(|t| &t.tokenizer) else { return };
    let table = Tokenizer::standard().ok();
    for s in config.subjects.iter().filter(|s| !s.token.is_empty()) {
        let (id, token) = (&s.id, &s.token);
        if !tokenizer.is_single_token(token) {
            warn(&format!(
                "subject {id}: `{token}` is not a single token; a rare one works better"
            ));
        } else if let Some(n) = table.as_ref().and_then(|t| common_word(t, token)) {
            warn(&format!(
                "subject {id}: `{token}` is token {n} of CLIP's table, not a rare one (those are {RAREST} \
                 and up, such as olis, hta, lun); it brings its own meaning along"
            ));
        }
    }
}

/// Ids of CLIP's table follow how often a word piece was seen; the rarest fifth counts as rare. The published
/// identifiers `olis` 49397, `hta` 49384 and `lun` 49390 are in it, `ult` 4380 and `amg` 21324 are not.
const RAREST: i32 = 40_000;

/// The id of a word in CLIP's standard table when it is a frequent one; ids of a base with a table of its own
/// (nano) say nothing about how common a word is.
fn common_word(table: &Tokenizer, token: &str) -> Option<i32> {
    match table.tokens(token)[..] {
        [id] if id < RAREST => Some(id),
        _ => None,
    }
}

/// What the configuration says about the base's target.
pub fn prediction(config: &TrainConfig) -> Option<Prediction> {
    match config.prediction {
        Target::Auto => None,
        Target::Epsilon => Some(Prediction::Epsilon),
        Target::V => Some(Prediction::Velocity),
    }
}

/// Says that the checkpoint leaves open what its U-Net predicts.
pub fn doubt(base: &Base) {
    if !base.prediction_known {
        warn(&format!(
            "{} does not say whether its U-Net predicts the noise or the velocity; the noise is taken, as \
             in SD 2.1 base; pass --prediction v for an SD 2.1 of 768 pixels",
            base.name
        ));
    }
}
