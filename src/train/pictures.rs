//! The data room's pictures as training samples.

use super::{PhotoFeatures, SampleSource, TrainingSample};
use crate::{
    data::{self, Dataset, TrainConfig},
    error::Result,
};
use std::sync::Arc;

/// Features of a run's photos.
#[derive(Clone, Debug, Default)]
pub struct Features {
    /// By subject and photo, in their order.
    pub photos: Vec<Vec<Arc<PhotoFeatures>>>,
    /// Of a white picture: what is behind the subjects of a mix.
    pub blank: Arc<PhotoFeatures>,
}

/// A [`Dataset`] at the latent size of a base model.
#[derive(Debug)]
pub struct Pictures<'a> {
    data: &'a Dataset,
    latent: usize,
    accumulate: u64,
    soft_alpha: f32,
    subject_alone: bool,
    features: Option<Features>,
}

impl<'a> Pictures<'a> {
    /// Pictures of `data`; `factor` is the VAE's.
    pub fn new(data: &'a Dataset, config: &TrainConfig, factor: usize) -> Self {
        Self {
            data,
            latent: config.train.resolution / factor.max(1),
            accumulate: config.train.accumulate as u64,
            soft_alpha: config.method.soft_alpha as f32,
            subject_alone: config.drops_to_subject(),
            features: None,
        }
    }

    /// The same pictures with what an image encoder makes of them.
    pub fn with_features(self, features: Option<Features>) -> Self {
        Self { features, ..self }
    }

    fn features(&self, sample: &data::Sample) -> Option<Arc<PhotoFeatures>> {
        let all = self.features.as_ref()?;
        match sample.source {
            None => Some(all.blank.clone()),
            Some(at) => all.photos.get(at.subject)?.get(at.photo).cloned(),
        }
    }

    fn sample(&self, sample: data::Sample, prior: bool) -> TrainingSample {
        let features = self.features(&sample);
        let alone = self.subject_alone && sample.source.is_some();
        let subject = if alone { sample.subject(self.latent, self.latent) } else { vec![] };
        TrainingSample {
            pixels: sample.picture.signed(),
            weight: sample.weight(self.latent, self.latent, self.soft_alpha),
            mixed: sample.draw.mixed,
            key: sample.source.map(|s| format!("{s:?}")),
            prompt: sample.draw.prompt,
            prior,
            subject,
            features,
        }
    }
}

impl SampleSource for Pictures<'_> {
    fn pass(&self, pass: u64, step: u64) -> Result<Vec<TrainingSample>> {
        let within = usize::try_from(pass % self.accumulate.max(1)).unwrap_or(0);
        let batch = self.data.batch(step, within);
        let own = batch.samples.into_iter().map(|s| self.sample(s, false));
        Ok(own.chain(batch.prior.into_iter().map(|s| self.sample(s, true))).collect())
    }

    fn prompts(&self) -> Vec<String> {
        self.data.prompts()
    }
}
