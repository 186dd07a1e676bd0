//! `[decoupling]`: dual-level decoupling of subject and background (methods.md §2).

use super::{Method, TrainConfig};
use crate::{
    models::{checkpoint::assets::NANO_CLIP, decoupling::Source},
    nn::Routing,
};
use serde::{Deserialize, Serialize};
use std::{collections::HashSet, path::PathBuf};

/// Which vector stands for a text where its cosine with a feature is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TextFeature {
    /// The mean over all its tokens, as DisenBooth does.
    #[default]
    Mean,
    /// The end-of-text token.
    End,
    /// The mean over the tokens of the subjects' identifiers (of their classes where they have none); over all tokens
    /// where a prompt names no subject.
    Concept,
}

/// What of the text side is trained: without anything L4 is a constant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrainText {
    /// Nothing.
    None,
    /// The embeddings of the subjects' identifiers, each one token, which start as they are (the mean of a word's
    /// tokens): textual inversion.
    Embedding,
    /// Adapters on the text encoders, as `train.train_text_encoder`.
    #[default]
    Lora,
}

/// What the diffusion loss sees of a sample whose background is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DropLoss {
    /// All of it: the text alone is to give the photo's background too, and the subject drags it along.
    Whole,
    /// Its subject, by the mask at the latent's size: the text alone is asked for nothing else.
    #[default]
    Subject,
}

/// What subjects are decoupled with. The paper gives no number; these are DisenBooth's where it has one, else the
/// reconstruction of methods.md §2.2. How a text alone is trained it does not say: `drop` and `drop_loss` are what freed
/// the subject of its place on nano (`benches/results/decoupled_nano.md`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DecouplingSection {
    /// Decouple with any method; `decoupled` and `disenbooth` always do.
    pub enabled: bool,
    /// A CLIP whose image tower looks at the photos: transformers folder or original file; empty: the embedded one, with the
    /// base `nano` only.
    pub encoder: PathBuf,
    /// Weight of the diffusion loss (L1).
    pub diffusion: f64,
    /// Weight of the cosine of text and implicit feature, pushed down (L2).
    pub text_implicit: f64,
    /// Weight of the cosine of implicit and explicit feature, pushed up (L3).
    pub implicit_explicit: f64,
    /// Weight of the cosine of text and explicit feature, pushed down (L4).
    pub text_background: f64,
    /// Weight of the diffusion loss of the text alone (DisenBooth's weak loss).
    pub weak: f64,
    /// Which feature is added to the text.
    pub irrelevant_source: Source,
    /// What of the text side is trained.
    pub train_text: TrainText,
    /// Probability that a sample's background is left out.
    pub drop: f64,
    /// What the diffusion loss sees of such a sample.
    pub drop_loss: DropLoss,
    /// Which vector stands for a text in a cosine.
    pub text_feature: TextFeature,
    /// Whether a mixture of experts fuses text and background.
    pub fusion: bool,
    /// Experts.
    pub experts: usize,
    /// Experts that count for a token; 0: all.
    pub top_k: usize,
    /// Width between an expert's layers; 0: the text's.
    pub hidden: usize,
    /// What chooses the experts.
    pub routing: Routing,
    /// How subjects are taken out of photos: `classical`, `base` (the base itself), or a base's name.
    pub fill: String,
    /// Pixels the masks grow by before; -1: 1 % of the longer side, at least 2.
    pub grow: i64,
}

impl Default for DecouplingSection {
    fn default() -> Self {
        Self {
            enabled: false,
            encoder: PathBuf::new(),
            diffusion: 1.0,
            text_implicit: 0.001,
            implicit_explicit: 0.001,
            text_background: 0.001,
            weak: 0.0,
            irrelevant_source: Source::Explicit,
            train_text: TrainText::Lora,
            drop: 0.5,
            drop_loss: DropLoss::Subject,
            text_feature: TextFeature::Mean,
            fusion: true,
            experts: 4,
            top_k: 0,
            hidden: 0,
            routing: Routing::Token,
            fill: CLASSICAL.into(),
            grow: -1,
        }
    }
}

/// The fill without weights.
pub const CLASSICAL: &str = "classical";

impl DecouplingSection {
    /// The model whose image tower looks at the photos.
    pub fn encoder(&self) -> PathBuf {
        match self.encoder.as_os_str().is_empty() {
            true => NANO_CLIP.into(),
            false => self.encoder.clone(),
        }
    }

    /// Whether photos without their subjects are needed: some part of the loss, or the text, sees them.
    pub fn needs_backgrounds(&self) -> bool {
        self.implicit_explicit != 0.0
            || self.text_background != 0.0
            || self.irrelevant_source != Source::Implicit
    }
}

impl TrainConfig {
    /// Whether subjects are decoupled from their backgrounds.
    pub fn decouples(&self) -> bool {
        self.decoupling.enabled
            || matches!(self.method.name, Method::Decoupled | Method::Disenbooth)
    }

    /// The identifiers whose embeddings are learned; none unless `decoupling.train_text = "embedding"`.
    pub fn learned_words(&self) -> Vec<String> {
        if !self.decouples() || self.decoupling.train_text != TrainText::Embedding {
            return vec![];
        }
        let mut words: Vec<String> =
            self.subjects.iter().map(|s| s.token.trim().to_string()).collect();
        words.retain(|w| !w.is_empty());
        let mut seen = HashSet::new();
        words.retain(|w| seen.insert(w.to_lowercase()));
        words
    }

    /// Whether the loss of samples without their background sees the subject alone.
    pub fn drops_to_subject(&self) -> bool {
        self.decouples() && self.decoupling.drop_loss == DropLoss::Subject
    }

    /// Whether the text encoders get adapters.
    pub fn adapts_text(&self) -> bool {
        let asked = self.decouples() && self.decoupling.train_text == TrainText::Lora;
        self.train.train_text_encoder || asked
    }
}
