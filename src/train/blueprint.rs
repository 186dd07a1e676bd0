//! What a run plans before it takes memory: the step, the VAE encoder, the text encoders.

use super::{
    Decoupled, NoiseSchedule, Objective, Patterns, StepOptions, Text, Trained, fit, plan_step,
    text_inputs, unet_params,
};
use crate::{
    data::{
        TrainConfig,
        config::{Loss, Mode},
    },
    error::{Error, Result},
    kernels::adamw::Scaling,
    lora::{Adapter, Adapters},
    models::{architecture::Architecture, towers::image_width},
    plan::{ParamInfo, Plan, Recorder},
    tensor::Spec,
};

/// A configuration on an architecture: everything that is planned, and no weights.
#[derive(Clone, Debug)]
pub struct Blueprint<'a> {
    config: &'a TrainConfig,
    /// The base without its weights.
    pub architecture: Architecture,
    /// What is trained.
    pub trained: Trained,
    /// Sizes of the step.
    pub options: StepOptions,
    /// How the loss is scaled, where it is.
    pub scaling: Option<Scaling>,
}

/// The plans of a run.
#[derive(Debug)]
pub struct Plans {
    /// One pass: forward, backward, and the update of what is trained.
    pub step: Plan,
    /// The VAE encoder, one picture at a time.
    pub encoder: Plan,
    /// The frozen text encoders, one prompt at a time; none when they are trained within the step.
    pub text: Option<Plan>,
}

/// Pictures of one pass.
pub fn pass_size(config: &TrainConfig) -> usize {
    config.train.batch * (1 + usize::from(config.method.prior_preservation))
}

/// Whether the text encoders are part of the step program.
pub fn text_is_trained(config: &TrainConfig) -> bool {
    match config.train.mode {
        Mode::Lora => config.adapts_text() || !config.learned_words().is_empty(),
        Mode::Full => config.train.parts.iter().any(|p| p.contains("text")),
    }
}

impl<'a> Blueprint<'a> {
    /// The plans of `config` on `architecture`, at the configuration's resolution.
    ///
    /// # Errors
    /// [`Error::Config`] for a resolution the VAE cannot halve, patterns that name nothing, a loss that does not
    /// go with what is trained, or a loss scale in f32 or bf16.
    pub fn new(config: &'a TrainConfig, architecture: Architecture) -> Result<Self> {
        let architecture = Architecture { learned: config.learned_words().len(), ..architecture };
        let (t, factor) = (&config.train, architecture.vae.factor());
        if !t.resolution.is_multiple_of(factor) {
            return Err(Error::Config {
                key: "train.resolution".into(),
                found: t.resolution.to_string(),
                expected: format!("a multiple of {factor}"),
                fix: "change it".into(),
            });
        }
        let options = StepOptions {
            batch: pass_size(config),
            latent: [t.resolution / factor; 2],
            channels: architecture.vae.latent_channels,
            scale: architecture.vae.scaling_factor,
            noise: NoiseSchedule::from_json(&architecture.scheduler)?,
            objective: objective(config)?,
            decoupled: decoupled(config, &architecture)?,
            checkpoint: t.checkpoint_gradients,
            drawn: true,
            poison: false,
            types: architecture.types,
        };
        let trained = trained(config, &architecture)?;
        let scaling = t.loss_scale.scaling(architecture.types.products())?;
        Ok(Self { config, architecture, trained, options, scaling })
    }

    /// The step with other sizes.
    ///
    /// # Errors
    /// Those of the recording and the plan.
    pub fn step(&self, options: &StepOptions) -> Result<Plan> {
        let base = &self.architecture;
        plan_step(&base.unet, &self.trained, options, |rec, adapters| {
            match text_is_trained(self.config) {
                false => Ok(text_inputs(rec, &base.unet, options.batch, base.tokens)),
                true => recorded_text(rec, base, adapters, options.batch),
            }
        })
    }

    /// Everything.
    ///
    /// # Errors
    /// As [`Blueprint::step`].
    pub fn plans(&self) -> Result<Plans> {
        let [h, w] = self.options.latent.map(|side| side * self.architecture.vae.factor());
        let text = (!text_is_trained(self.config))
            .then(|| self.architecture.text_plan(&Adapters::new(), 1))
            .transpose()?;
        let encoder = self.architecture.vae_encoder(1, [h, w])?;
        Ok(Plans { step: self.step(&self.options)?, encoder, text })
    }
}

impl Plans {
    /// What stands beside the step: the VAE encoder, and the text encoders until every prompt is encoded, bytes.
    pub fn others_bytes(&self) -> u64 {
        fit::plan_bytes(&self.encoder) + self.text.as_ref().map_or(0, fit::plan_bytes)
    }
}

/// What the configuration trains.
fn trained(config: &TrainConfig, base: &Architecture) -> Result<Trained> {
    let t = &config.train;
    if t.mode == Mode::Full {
        let patterns = Patterns::new("train.parts", &t.parts)?;
        let mut params = unet_params(&base.unet)?;
        if text_is_trained(config) {
            params.extend(text_params(base)?);
        }
        let known = params.iter().map(|p| p.name.as_str());
        patterns.all_match("train.parts", known)?;
        return Ok(Trained::Weights(patterns));
    }
    let adapter = Adapter { rank: t.rank, scale: (t.effective_alpha() / t.rank as f64) as f32 };
    let params = unet_params(&base.unet)?;
    let patterns = Patterns::new("train.targets", &t.targets)?;
    let mut adapters = patterns.adapt("train.targets", &params, adapter)?;
    if config.adapts_text() {
        let patterns = Patterns::new("train.text_targets", &t.text_targets)?;
        let text = patterns.adapt("train.text_targets", &text_params(base)?, adapter)?;
        for (path, list) in text.iter() {
            list.iter().for_each(|a| adapters.insert(path, *a));
        }
    }
    Ok(Trained::Adapters(adapters))
}

fn text_params(base: &Architecture) -> Result<Vec<ParamInfo>> {
    let mut rec = Recorder::new();
    base.record_text(&mut rec, &Adapters::new(), 1)?;
    Ok(rec.params())
}

/// How the configuration decouples.
fn decoupled(config: &TrainConfig, base: &Architecture) -> Result<Option<Decoupled>> {
    if !config.decouples() {
        return Ok(None);
    }
    let (d, features) = (&config.decoupling, image_width(&config.decoupling.encoder())?);
    let width = base.unet.context_dim().unwrap_or(features);
    Ok(Some(Decoupled::new(d, features, width)))
}

fn objective(config: &TrainConfig) -> Result<Objective> {
    match config.method.loss {
        Loss::Mse => Ok(Objective::Mse),
        Loss::Dco if text_is_trained(config) => Err(Error::Config {
            key: "method.loss".into(),
            found: "dco with trained text encoders".into(),
            expected: "dco with frozen text encoders".into(),
            fix: "set train.train_text_encoder = false (or decoupling.train_text = \"none\"), or method.loss = \"mse\""
                .into(),
        }),
        Loss::Dco => Ok(Objective::Dco { beta: config.method.dco_beta as f32 }),
    }
}

/// The text encoders inside the step program.
fn recorded_text(
    rec: &mut Recorder,
    base: &Architecture,
    adapters: &Adapters,
    batch: usize,
) -> Result<Text> {
    let text = base.record_text(rec, adapters, batch)?;
    let time_ids = base.unet.text_time.map(|_| rec.input("time_ids", Spec::f32(&[batch, 6])));
    Ok(Text { context: text.context, text_embeds: text.pooled, time_ids })
}
