//! A base model being trained: its programs, what it keeps of encoders, one pass.

use super::{
    Batch, Draws, Group, NoiseSchedule, Objective, Optimizer, Patterns, Prepared, Rules, Sample,
    Start, StepOptions, Stepper, Text, Trained, fit, plan_step, text_inputs, unet_params,
};
use crate::{
    data::{
        TrainConfig,
        config::{Loss, Mode},
    },
    device::Device,
    error::{Error, Result},
    kernels::adamw::AdamW,
    lora::{Adapter, Adapters},
    models::base::{Base, Encoded, text_input_names},
    plan::{ParamInfo, Program, Recorder},
    tensor::Spec,
};
use std::collections::HashMap;

/// Programs and caches of a run.
#[derive(Debug)]
pub struct Trainer<'a> {
    config: &'a TrainConfig,
    base: &'a Base,
    device: Device,
    noise: NoiseSchedule,
    /// The step program and its optimizer.
    pub stepper: Stepper,
    encoder: Program,
    text_program: Option<Program>,
    texts: HashMap<String, Encoded>,
    moments: HashMap<String, Vec<f32>>,
    /// Passes whose moments came from the cache, and all (a test reads them).
    pub hits: (usize, usize),
}

/// Pictures of one pass.
pub fn pass_size(config: &TrainConfig) -> usize {
    config.train.batch * (1 + usize::from(config.method.prior_preservation))
}

/// What the configuration trains.
fn trained(config: &TrainConfig, base: &Base) -> Result<Trained> {
    let t = &config.train;
    if t.mode == Mode::Full {
        return Patterns::new("train.parts", &t.parts).map(Trained::Weights);
    }
    let adapter = Adapter { rank: t.rank, scale: (t.effective_alpha() / t.rank as f64) as f32 };
    let params = unet_params(&base.unet)?;
    let patterns = Patterns::new("train.targets", &t.targets)?;
    let mut adapters = patterns.adapt("train.targets", &params, adapter)?;
    if t.train_text_encoder {
        let patterns = Patterns::new("train.text_targets", &t.text_targets)?;
        let params = text_params(base)?;
        let text = patterns.adapt("train.text_targets", &params, adapter)?;
        for (path, list) in text.iter() {
            list.iter().for_each(|a| adapters.insert(path, *a));
        }
    }
    Ok(Trained::Adapters(adapters))
}

fn text_params(base: &Base) -> Result<Vec<ParamInfo>> {
    let mut rec = Recorder::new();
    base.record_text(&mut rec, &Adapters::new(), 1)?;
    Ok(rec.params())
}

/// Whether the text encoders are part of the step program.
fn text_is_trained(config: &TrainConfig) -> bool {
    let parts = config.train.parts.iter().any(|p| p.contains("text"));
    match config.train.mode {
        Mode::Lora => config.train.train_text_encoder,
        Mode::Full => parts,
    }
}

fn objective(config: &TrainConfig) -> Result<Objective> {
    match config.method.loss {
        Loss::Mse => Ok(Objective::Mse),
        Loss::Dco if text_is_trained(config) => Err(Error::Config {
            key: "method.loss".into(),
            found: "dco with trained text encoders".into(),
            expected: "dco with frozen text encoders".into(),
            fix: "set train.train_text_encoder = false, or method.loss = \"mse\"".into(),
        }),
        Loss::Dco => Ok(Objective::Dco { beta: config.method.dco_beta as f32 }),
    }
}

impl<'a> Trainer<'a> {
    /// Plans and loads everything a run of `config` on `base` needs.
    ///
    /// # Errors
    /// Those of the configuration, the plan and the weights.
    pub fn new(config: &'a TrainConfig, base: &'a Base, device: Device) -> Result<Self> {
        let t = &config.train;
        let noise = base.noise()?;
        let objective = objective(config)?;
        let factor = base.vae.factor();
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
            channels: base.vae.latent_channels,
            scale: base.vae.scaling_factor,
            noise: noise.clone(),
            objective,
            checkpoint: t.checkpoint_gradients,
            poison: false,
            dtype: base.dtype,
        };
        let trained = trained(config, base)?;
        let plan_with = |options: &StepOptions| {
            plan_step(&base.unet, &trained, options, |rec, adapters| {
                match text_is_trained(config) {
                    false => Ok(text_inputs(rec, &base.unet, options.batch, base.tokens())),
                    true => recorded_text(rec, base, adapters, options.batch),
                }
            })
        };
        let plan = plan_with(&options)?;
        let encoder = base.vae_encoder(1, [t.resolution; 2])?;
        let mut others = fit::plan_bytes(&encoder);
        if !text_is_trained(config) {
            others += fit::plan_bytes(&base.text_plan(&Adapters::new(), 1)?);
        }
        fit::check(&device, (&plan, others), &options, t.batch, plan_with)?;
        let mut program = plan.load(device.clone(), &Start::new(base.weights.clone(), t.seed))?;
        let ema = t.ema.then_some(t.ema_decay as f32);
        let group = |name: &str| group(config, name);
        let rules = Rules {
            passes: t.accumulate,
            clip: t.clip_norm as f32,
            ema,
            factors: (0..t.steps).map(|step| t.learning_rate_factor(step)).collect(),
        };
        let optimizer = Optimizer::new(&mut program, group, rules)?;
        let encoder = encoder.load(device.clone(), &base.weights)?;
        Ok(Self {
            config,
            base,
            device,
            noise,
            stepper: Stepper::new(program, optimizer, objective),
            encoder,
            text_program: None,
            texts: HashMap::new(),
            moments: HashMap::new(),
            hits: (0, 0),
        })
    }

    /// What the random numbers of a pass depend on.
    pub fn draws(&self) -> Draws {
        let side = self.config.train.resolution / self.base.vae.factor();
        Draws::new(self.config.train.seed, side * side * self.base.vae.latent_channels, &self.noise)
    }

    /// Encodes `prompts` and lets the text encoders go.
    ///
    /// # Errors
    /// Those of the text encoders.
    pub fn encode_prompts(&mut self, prompts: &[String]) -> Result<()> {
        if !text_is_trained(self.config) {
            prompts.iter().try_for_each(|p| self.encode_prompt(p))?;
            self.text_program = None;
        }
        Ok(())
    }

    fn encode_prompt(&mut self, prompt: &str) -> Result<()> {
        if self.texts.contains_key(prompt) {
            return Ok(());
        }
        if self.text_program.is_none() {
            let (none, weights) = (Adapters::new(), &self.base.weights);
            self.text_program = Some(self.base.text_program(&self.device, &none, 1, weights)?);
        }
        if let Some(program) = &mut self.text_program {
            let encoded = self.base.encode(program, &[prompt])?;
            self.texts.insert(prompt.into(), encoded);
        }
        Ok(())
    }

    /// VAE moments of a sample, from the cache where its pixels were seen before.
    fn moments(&mut self, sample: &Sample) -> Result<Vec<f32>> {
        self.hits.1 += 1;
        let key = sample.key.as_ref().filter(|_| self.config.train.cache_latents);
        if let Some(known) = key.and_then(|k| self.moments.get(k)) {
            self.hits.0 += 1;
            return Ok(known.clone());
        }
        self.encoder.set("sample", &sample.pixels)?;
        self.encoder.forward()?;
        let moments = self.encoder.get("moments")?;
        if let Some(k) = key {
            self.moments.insert(k.clone(), moments.clone());
        }
        Ok(moments)
    }

    /// Loss coefficient of every sample: `1 / count` of its kind, the prior's times its weight, min-SNR.
    fn coefficients(&self, pass: &Prepared) -> Vec<f32> {
        let m = &self.config.method;
        let priors = pass.samples.iter().filter(|s| s.prior).count();
        let own = pass.samples.len() - priors;
        let one = |(s, t): (&Sample, &i32)| {
            let kind = match s.prior {
                true => m.prior_weight / priors as f64,
                false => 1.0 / own as f64,
            };
            let snr = match m.min_snr_gamma {
                g if g > 0.0 => self.noise.min_snr(usize::try_from(*t).unwrap_or(0), g as f32),
                _ => 1.0,
            };
            (kind * f64::from(snr)) as f32
        };
        pass.samples.iter().zip(&pass.timesteps).map(one).collect()
    }

    /// Runs forward and backward on one pass; returns its loss.
    ///
    /// # Errors
    /// Those of the data's shapes and of the operations.
    pub fn pass(&mut self, pass: &Prepared) -> Result<f32> {
        let mut batch = Batch {
            posterior_noise: pass.posterior_noise.clone(),
            noise: pass.noise.clone(),
            timesteps: pass.timesteps.clone(),
            coefficient: self.coefficients(pass),
            ..Batch::default()
        };
        for sample in &pass.samples {
            batch.moments.extend(self.moments(sample)?);
            batch.weight.extend(&sample.weight);
        }
        let prompts: Vec<&str> = pass.samples.iter().map(|s| s.prompt.as_str()).collect();
        if text_is_trained(self.config) {
            self.text_ids(&mut batch, &prompts);
        } else {
            self.text_vectors(&mut batch, &prompts)?;
        }
        if self.base.unet.text_time.is_some() {
            let side = self.config.train.resolution as f32;
            let ids = [side, side, 0.0, 0.0, side, side].repeat(prompts.len());
            batch.condition.push(("time_ids", ids));
        }
        self.stepper.accumulate(&batch)
    }

    fn text_ids(&self, batch: &mut Batch, prompts: &[&str]) {
        for i in 0..self.base.text.len() {
            let (ids, rows) = self.base.ids(i, prompts);
            let (name, end) = text_input_names(i);
            batch.ids.push((name, ids));
            if self.base.text.len() > 1 && i + 1 == self.base.text.len() {
                batch.ids.push((end, rows));
            }
        }
    }

    fn text_vectors(&mut self, batch: &mut Batch, prompts: &[&str]) -> Result<()> {
        let (mut context, mut pooled) = (vec![], vec![]);
        for prompt in prompts {
            self.encode_prompt(prompt)?;
            if let Some(encoded) = self.texts.get(*prompt) {
                context.extend(&encoded.context);
                pooled.extend(&encoded.pooled);
            }
        }
        batch.condition.push(("context", context));
        if self.base.unet.text_time.is_some() {
            batch.condition.push(("text_embeds", pooled));
        }
        Ok(())
    }
}

/// The text encoders inside the step program.
fn recorded_text(
    rec: &mut Recorder,
    base: &Base,
    adapters: &Adapters,
    batch: usize,
) -> Result<Text> {
    let text = base.record_text(rec, adapters, batch)?;
    let time_ids = base.unet.text_time.map(|_| rec.input("time_ids", Spec::f32(&[batch, 6])));
    Ok(Text { context: text.context, text_embeds: text.pooled, time_ids })
}

fn group(config: &TrainConfig, name: &str) -> Group {
    let t = &config.train;
    let text = name.starts_with("text_encoder");
    let (rate, decay) = match text {
        true => (t.text_learning_rate, t.text_weight_decay),
        false => (t.learning_rate, t.weight_decay),
    };
    let adamw = AdamW {
        beta1: t.betas[0] as f32,
        beta2: t.betas[1] as f32,
        eps: t.eps as f32,
        weight_decay: decay as f32,
    };
    Group { learning_rate: rate as f32, adamw }
}
