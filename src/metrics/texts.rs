//! How well a picture fits a text: CLIP's text tower, and ImageReward.

use super::similarity::{Embeddings, to_references};
use crate::{
    device::Device,
    error::{Error, Result},
    models::{
        checkpoint::Component,
        clip::eos_rows,
        tokenizer::Tokenizer,
        towers::{Feed, Network, Preparation, Tower, masked_scores},
        wordpiece::WordPiece,
    },
    tensor::{DType, Tensor, image::Picture},
};
use std::{collections::HashMap, path::Path};

/// CLIP's text tower with its own tokenizer; each text is embedded once.
#[derive(Debug)]
pub struct ClipTexts {
    network: Network,
    tokenizer: Tokenizer,
    source: String,
    known: HashMap<String, Vec<f32>>,
}

impl ClipTexts {
    /// Opens the text tower and the tokenizer of `path`.
    ///
    /// # Errors
    /// Those of reading; [`Error::Data`] for a tokenizer of longer texts than the tower's.
    pub fn open(path: &Path, device: &Device, dtype: DType) -> Result<Self> {
        let network = Network::open((Component::ClipText, "text_embeds"), path, (device, dtype))?;
        let tokenizer = Tokenizer::open(path, Component::ClipText)?;
        Ok(Self { network, tokenizer, source: path.display().to_string(), known: HashMap::new() })
    }

    /// Tokens of `text` that do not fit.
    pub fn cut(&self, text: &str) -> usize {
        self.tokenizer.encode(text).truncated
    }

    /// The CLIP score of a picture, whose embedding by the same CLIP is `picture`: the mean over `texts` of the cosine
    /// between it and the text. Neither clamped nor times 100.
    ///
    /// # Errors
    /// Those of the network; [`Error::Data`] for a tokenizer whose tokens the tower does not know.
    pub fn score(&mut self, picture: &Embeddings, texts: &[String]) -> Result<f64> {
        let mut rows = Tensor { dims: vec![0, 1], data: vec![] };
        for text in texts {
            let row = match self.known.get(text) {
                Some(row) => row,
                None => {
                    let row = self.embed(text)?;
                    self.known.entry(text.clone()).or_insert(row)
                }
            };
            rows.dims = vec![rows.dims[0] + 1, row.len()];
            rows.data.extend(row);
        }
        let texts = Embeddings::new(&rows, "embeddings of clip's texts")?;
        if texts.width() != picture.width() {
            return Err(Error::Data {
                at: self.source.clone(),
                found: format!("texts of width {:?}", texts.width().unwrap_or(0)),
                expected: format!("{:?}, as the pictures have", picture.width().unwrap_or(0)),
                fix: "give both towers of one CLIP".into(),
            });
        }
        Ok(to_references(picture, &[texts])[0][0])
    }

    fn embed(&mut self, text: &str) -> Result<Vec<f32>> {
        let ids = self.tokenizer.encode(text).ids;
        let Tower::ClipText(config) = &self.network.tower else { return Ok(vec![]) };
        known_tokens(&self.source, &ids, config.vocabulary, config.positions)?;
        let end = eos_rows(&ids, ids.len(), config.eos).first().copied();
        let feed = Feed { ids: Some(&ids), end, ..Feed::default() };
        Ok(self.network.run(&feed)?.data)
    }
}

/// ImageReward with BERT's tokenizer.
#[derive(Debug)]
pub struct RewardModel {
    network: Network,
    preparation: Preparation,
    tokenizer: WordPiece,
    source: String,
}

/// Tokens of a text, as published.
const LENGTH: usize = 35;

impl RewardModel {
    /// Opens ImageReward's folder, in which the vocabulary of bert-base-uncased lies too.
    ///
    /// # Errors
    /// Those of reading.
    pub fn open(path: &Path, device: &Device, dtype: DType) -> Result<Self> {
        let network = Network::open((Component::ImageReward, "rewards"), path, (device, dtype))?;
        let preparation = Preparation::of(Component::ImageReward, path, network.tower.side())?;
        let tokenizer = WordPiece::open(path)?;
        Ok(Self { network, preparation, tokenizer, source: path.display().to_string() })
    }

    /// Tokens of `text` that do not fit.
    pub fn cut(&self, text: &str) -> usize {
        self.tokenizer.encode(text, LENGTH).truncated
    }

    /// The mean reward of a picture over `texts`.
    ///
    /// # Errors
    /// Those of the network; [`Error::Data`] for a vocabulary that is not the model's.
    pub fn score(&mut self, picture: &Picture, texts: &[String]) -> Result<f64> {
        let frame = self.preparation.frame(picture)?;
        let samples = self.preparation.samples(&frame);
        let mut sum = 0.0;
        for text in texts {
            let pieces = self.tokenizer.encode(text, LENGTH);
            let Tower::ImageReward(reward) = &self.network.tower else { continue };
            known_tokens(&self.source, &pieces.ids, reward.vocabulary, reward.positions)?;
            let mask = masked_scores(&pieces.mask, reward);
            let pixels = Some((&samples[..], [frame.height, frame.width]));
            let feed = Feed { pixels, ids: Some(&pieces.ids), mask: Some(&mask), end: None };
            sum += f64::from(self.network.run(&feed)?.data.first().copied().unwrap_or(f32::NAN));
        }
        Ok(sum / texts.len() as f64)
    }
}

/// Whether a tower with a table of so many tokens and positions takes `ids`.
fn known_tokens(source: &str, ids: &[i32], vocabulary: usize, positions: usize) -> Result<()> {
    let wrong = |found: String, expected: String| Error::Data {
        at: source.into(),
        found,
        expected,
        fix: "put the tokenizer's files of this model beside its weights".into(),
    };
    if ids.len() > positions {
        let found = format!("a tokenizer of texts of {} tokens", ids.len());
        return Err(wrong(found, format!("at most {positions}, the model's positions")));
    }
    let outside = ids.iter().find(|i| usize::try_from(**i).map_or(true, |i| i >= vocabulary));
    match outside {
        Some(id) => {
            let found = format!("a tokenizer with token {id}");
            Err(wrong(found, format!("tokens below {vocabulary}, the model's table")))
        }
        None => Ok(()),
    }
}
