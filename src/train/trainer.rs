//! A base model being trained: its programs, what it keeps of encoders, one pass.

use super::{
    Batch, Blueprint, Decoupled, Draws, Group, InitialWeights, NoiseSchedule, Optimizer, Plans,
    Prepared, Rules, Stepper, TrainingSample, continued,
    decoupled::{BACKGROUND, CONCEPT, KEEP, PHOTO, TEXT_END},
    fit, give, text_is_trained, words,
};
use crate::{
    data::{TrainConfig, config::MethodConfig},
    device::Device,
    error::{Error, Result},
    kernels::adamw::{AdamW, Scaling},
    lora::Adapters,
    models::{
        Texts,
        base::{Base, text_input_names},
    },
    plan::Program,
};
use std::collections::HashMap;

/// Programs and caches of a run.
#[derive(Debug)]
pub struct Trainer<'a> {
    config: &'a TrainConfig,
    base: &'a Base,
    device: Device,
    noise: NoiseSchedule,
    decoupled: Option<Decoupled>,
    /// The step program and its optimizer.
    pub stepper: Stepper,
    encoder: Program,
    /// Prompts that are encoded already, here or by whoever gave them.
    pub texts: Texts,
    moments: HashMap<String, Vec<f32>>,
    /// Passes whose moments came from the cache, and all (a test reads them).
    pub hits: (usize, usize),
}

impl<'a> Trainer<'a> {
    /// Plans and loads everything a run of `config` on `base` needs; sample pictures will need `samples` bytes
    /// beside it.
    ///
    /// # Errors
    /// Those of the configuration, the plan and the weights.
    pub fn new(
        config: &'a TrainConfig,
        base: &'a Base,
        device: Device,
        samples: u64,
    ) -> Result<Self> {
        let t = &config.train;
        let blueprint = Blueprint::new(config, base.architecture())?;
        let plans = blueprint.plans()?;
        let noise = blueprint.options.noise.clone();
        let others = plans.others_bytes();
        let need = fit::Need { plan: &plans.step, others, samples, train: t };
        fit::check(&device, &need, &blueprint.options, |options| blueprint.step(options))?;
        let mut start = InitialWeights::new(base.weights.clone(), t.seed);
        words::give(&mut start, base)?;
        if let Some(lora) = continued(config, base, &blueprint.trained)? {
            give(&mut start, &lora, &plans.step.params())?;
        }
        let Plans { step, encoder, .. } = plans;
        let mut program = step.load(device.clone(), &start)?;
        let optimizer = optimizer(config, blueprint.scaling, &mut program)?;
        let encoder = encoder.load(device.clone(), &base.weights)?;
        Ok(Self {
            config,
            base,
            device,
            noise,
            decoupled: blueprint.options.decoupled,
            stepper: Stepper::new(program, optimizer, &blueprint.options)?,
            encoder,
            texts: Texts::default(),
            moments: HashMap::new(),
            hits: (0, 0),
        })
    }

    /// What the random numbers of a pass depend on.
    pub fn draws(&self) -> Draws {
        let drop = self.config.decoupling.drop as f32;
        Draws { drop, ..Draws::new(self.config.train.seed, &self.noise) }
    }

    /// Encodes those of `prompts` that are new with the frozen text encoders, which are loaded at most once for
    /// all of them and let go; nothing where the text encoders are trained.
    ///
    /// # Errors
    /// Those of the text encoders.
    pub fn encode_prompts(&mut self, prompts: &[&str]) -> Result<()> {
        if text_is_trained(self.config) {
            return Ok(());
        }
        let (none, weights) = (Adapters::new(), &self.base.weights);
        self.texts.encode((self.base, &self.device), (&none, weights), prompts)
    }

    /// VAE moments of a sample whose pixels were seen before.
    fn known_moments(&self, sample: &TrainingSample) -> Option<&Vec<f32>> {
        let key = sample.key.as_ref().filter(|_| self.config.train.cache_latents);
        key.and_then(|k| self.moments.get(k))
    }

    /// Encodes sample `i` of a pass that was fed, and keeps the moments where its pixels come again; those of other
    /// pictures never leave a GPU.
    fn encode(&mut self, i: usize, sample: &TrainingSample) -> Result<()> {
        self.encoder.set("sample", &sample.pixels)?;
        self.encoder.forward()?;
        if let Some(key) = sample.key.as_ref().filter(|_| self.config.train.cache_latents) {
            self.moments.insert(key.clone(), self.encoder.get("moments")?);
        }
        self.stepper.program.adopt(("moments", i), &self.encoder, "moments")
    }

    /// Runs forward and backward on one pass, which a GPU may still compute afterwards.
    ///
    /// # Errors
    /// Those of the data's shapes and of the operations.
    pub fn pass(&mut self, pass: &Prepared) -> Result<()> {
        let mut batch = Batch {
            noise: pass.noise.clone(),
            timesteps: pass.timesteps.clone(),
            weight: pass.weights(),
            coefficient: coefficients(&self.config.method, &self.noise, pass),
            ..Batch::default()
        };
        let each = self.encoder.spec("moments")?.len();
        let mut unseen = vec![];
        for (i, sample) in pass.samples.iter().enumerate() {
            match self.known_moments(sample) {
                Some(known) => batch.moments.extend(known),
                None => {
                    unseen.push((i, sample));
                    batch.moments.resize(batch.moments.len() + each, 0.0);
                }
            }
        }
        self.hits.0 += pass.samples.len() - unseen.len();
        self.hits.1 += pass.samples.len();
        let prompts: Vec<&str> = pass.samples.iter().map(|s| s.prompt.as_str()).collect();
        if text_is_trained(self.config) {
            self.text_ids(&mut batch, &prompts);
        } else {
            self.text_vectors(&mut batch, &prompts)?;
        }
        if let Some(d) = self.decoupled {
            self.features(&d, &mut batch, pass)?;
        }
        if self.base.unet.text_time.is_some() {
            let side = self.config.train.resolution;
            let ids = Base::time_ids(side, side).repeat(prompts.len());
            batch.condition.push(("time_ids", ids));
        }
        self.stepper.feed(&batch)?;
        unseen.into_iter().try_for_each(|(i, sample)| self.encode(i, sample))?;
        self.stepper.run()
    }

    /// What a decoupled step is fed beside.
    fn features(&self, d: &Decoupled, batch: &mut Batch, pass: &Prepared) -> Result<()> {
        let [photo, background] = d.reads();
        let (mut all, mut behind) = (vec![], vec![]);
        for sample in &pass.samples {
            let known = sample.features.as_ref().ok_or_else(|| Error::Plan {
                at: "decoupling".into(),
                problem: "a picture without features".into(),
            })?;
            all.extend(&known.photo);
            behind.extend(&known.background);
        }
        if photo {
            batch.condition.push((PHOTO, all));
        }
        if background {
            batch.condition.push((BACKGROUND, behind));
        }
        if d.drops {
            let row = |keep: &bool| vec![f32::from(u8::from(*keep)); d.model.width];
            batch.condition.push((KEEP, pass.keep.iter().flat_map(row).collect()));
        }
        if d.reads_ends() {
            let prompts: Vec<&str> = pass.samples.iter().map(|s| s.prompt.as_str()).collect();
            batch.ids.push((TEXT_END, self.base.ids(0, &prompts).1));
        }
        if d.reads_concepts() {
            let prompts: Vec<&str> = pass.samples.iter().map(|s| s.prompt.as_str()).collect();
            let weights = words::concepts(self.base, self.config, &prompts, d.model.width);
            batch.condition.push((CONCEPT, weights));
        }
        Ok(())
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
        self.encode_prompts(prompts)?;
        for prompt in prompts {
            if let Some(encoded) = self.texts.get(prompt) {
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

/// Loss coefficient of every sample: `1 / count` of its kind (subject or prior), the prior's times its weight
/// lambda, each times `min(SNR, gamma) / SNR` (or its form for velocity) where min-SNR is on.
pub fn coefficients(method: &MethodConfig, noise: &NoiseSchedule, pass: &Prepared) -> Vec<f32> {
    let priors = pass.samples.iter().filter(|s| s.prior).count();
    let own = pass.samples.len() - priors;
    let one = |(s, t): (&TrainingSample, &i32)| {
        let kind = match s.prior {
            true => method.prior_weight / priors as f64,
            false => 1.0 / own as f64,
        };
        let snr = match method.min_snr_gamma {
            g if g > 0.0 => noise.min_snr(usize::try_from(*t).unwrap_or(0), g as f32),
            _ => 1.0,
        };
        (kind * f64::from(snr)) as f32
    };
    pass.samples.iter().zip(&pass.timesteps).map(one).collect()
}

/// The optimizer of a run of `config` for the trainables of `program`, whose loss is scaled by `scaling`.
///
/// # Errors
/// Those of the device.
pub fn optimizer(
    config: &TrainConfig,
    scaling: Option<Scaling>,
    program: &mut Program,
) -> Result<Optimizer> {
    let t = &config.train;
    let rules = Rules {
        passes: t.accumulate,
        clip: t.clip_norm as f32,
        ema: t.ema.then_some(t.ema_decay as f32),
        factors: (0..t.steps).map(|step| t.learning_rate_factor(step)).collect(),
        scaling,
    };
    Optimizer::new(program, |name| group(config, name), rules)
}

fn group(config: &TrainConfig, name: &str) -> Group {
    let t = &config.train;
    let text = name.starts_with("text_encoder") || words::is_word(name);
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
