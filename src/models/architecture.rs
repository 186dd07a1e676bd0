//! A base model without its weights: what can be planned from configurations alone.

use super::{
    builtin, builtin_names,
    checkpoint::{Checkpoint, Component, Target, model_json},
    clip::{TextConfig, TextInputs, text_encoder},
    decoupling,
    noise::published_scheduler,
    segmenter_names,
    unet::UnetConfig,
    vae::{VaeConfig, decoder, encoder},
};
use crate::{
    error::{Error, Result},
    kernels::concat::Concat,
    lora::Adapters,
    nn::Net,
    plan::{Plan, Recorder, Value, WeightLayout},
    tensor::{DType, Spec, Types},
};
use serde_json::Value as Json;
use std::path::Path;

/// Configurations of a base model's components, and how its programs store numbers.
#[derive(Clone, Debug)]
pub struct Architecture {
    /// What it was opened from.
    pub name: String,
    /// The denoiser.
    pub unet: UnetConfig,
    /// The autoencoder.
    pub vae: VaeConfig,
    /// One or two text encoders, in order.
    pub text: Vec<(Component, TextConfig)>,
    /// Tokens of a prompt.
    pub tokens: usize,
    /// Learned words, whose embeddings stand beside the tables (see [`learned_rows`]).
    pub learned: usize,
    /// `scheduler_config.json`; that of the published models when there is none.
    pub scheduler: Json,
    /// False where nothing says what the U-Net predicts and the family has both.
    pub prediction_known: bool,
    /// How numbers are stored.
    pub types: Types,
    /// How the autoencoder's are, where it was chosen.
    pub vae_dtype: Option<DType>,
}

/// The recorded text side.
#[derive(Clone, Copy, Debug)]
pub struct TextValues {
    /// Tokens `[N, L, C]`: both penultimate layers side by side, or the only encoder's last layer.
    pub context: Value,
    /// Projected pooled vector of the second encoder `[N, D]`.
    pub pooled: Option<Value>,
}

/// Names of the id and end-of-text inputs of encoder `i`.
pub fn text_input_names(i: usize) -> (&'static str, &'static str) {
    if i == 0 { ("input_ids", "eos") } else { ("input_ids_2", "eos_2") }
}

/// Name of the embeddings of learned words `[A, C]` for the text encoder `component`.
pub fn learned_rows(component: Component) -> String {
    format!("{}.identifier.{}", decoupling::PREFIX, component.name())
}

/// The configuration of one component of `model`: built in, a `config.json`, or read off a checkpoint.
///
/// # Errors
/// Those of the files; [`Error::Config`] for a component that the model does not have.
pub fn component_json(model: &str, component: Component) -> Result<Json> {
    let path = Path::new(model);
    let known = builtin_names().contains(&model) || segmenter_names().contains(&model);
    if known && !path.exists() {
        return builtin(model, component.name());
    }
    let own = [path.join(component.name()), path.to_path_buf()];
    match own.map(|f| f.join("config.json")).into_iter().find(|f| f.is_file()) {
        None => Ok(Checkpoint::open(model, component)?.config().clone()),
        Some(file) => {
            let text = std::fs::read_to_string(&file).map_err(Error::file("read", &file))?;
            serde_json::from_str(&text).map_err(|e| Error::Format {
                path: file.clone(),
                found: e.to_string(),
                expected: "a model configuration".into(),
                fix: "check the file".into(),
            })
        }
    }
}

/// `scheduler_config.json` of a model, or the published one, and whether the prediction is known.
///
/// # Errors
/// Those of the files.
pub fn scheduler(model: &str, unet: &UnetConfig) -> Result<(Json, bool)> {
    if let Some(json) = model_json(model, "scheduler/scheduler_config.json")? {
        return Ok((json, true));
    }
    if builtin_names().contains(&model) && !Path::new(model).exists() {
        return Ok((published_scheduler(), true));
    }
    let context = unet.context_dim().filter(|_| unet.text_time.is_none());
    let target = Target::of(model.as_ref(), context)?;
    let mut json = published_scheduler();
    json["prediction_type"] = target.prediction.published().into();
    json["rescale_betas_zero_snr"] = target.zero_snr.into();
    Ok((json, target.known))
}

impl Architecture {
    /// Reads the configurations of `model`: a built-in name, a diffusers folder (weights are not needed), a
    /// single file, or `nano`.
    ///
    /// # Errors
    /// Those of the files and the configurations.
    pub fn open(model: &str, types: Types) -> Result<Self> {
        let unet = UnetConfig::from_json(&component_json(model, Component::Unet)?)?;
        let vae = VaeConfig::from_json(&component_json(model, Component::Vae)?)?;
        let mut text = vec![Component::TextEncoder];
        text.extend(unet.text_time.is_some().then_some(Component::TextEncoder2));
        let text: Vec<(Component, TextConfig)> = text
            .into_iter()
            .map(|c| Ok((c, TextConfig::from_json(&component_json(model, c)?)?)))
            .collect::<Result<_>>()?;
        let longest = text.iter().map(|(_, t)| t.positions).min().unwrap_or(0);
        let settings = model_json(model, "tokenizer/tokenizer_config.json")?.unwrap_or_default();
        let said = settings["model_max_length"].as_u64().and_then(|n| usize::try_from(n).ok());
        let tokens = said.filter(|n| (2..longest).contains(n)).unwrap_or(longest);
        let (scheduler, prediction_known) = scheduler(model, &unet)?;
        Ok(Self {
            name: model.into(),
            unet,
            vae,
            text,
            tokens,
            learned: 0,
            scheduler,
            prediction_known,
            types,
            vae_dtype: None,
        })
    }

    /// Side of the pictures the model was made for, pixels.
    pub fn side(&self) -> usize {
        self.unet.sample_size.unwrap_or(64) * self.vae.factor()
    }

    /// How the autoencoder's programs store, if nothing was chosen: bf16 with a bf16 base whose autoencoder is not
    /// marked `force_upcast`, else f32.
    pub fn vae_types(&self) -> Types {
        self.types.with(self.vae_dtype.unwrap_or(self.vae.storage(self.types.products())))
    }

    /// Records every text encoder on the inputs of [`text_input_names`].
    ///
    /// # Errors
    /// Those of the recording.
    pub fn record_text(
        &self,
        rec: &mut Recorder,
        adapters: &Adapters,
        batch: usize,
    ) -> Result<TextValues> {
        let both = self.text.len() > 1;
        let (mut context, mut pooled) = (None, None);
        for (i, (component, config)) in self.text.iter().enumerate() {
            let (ids, rows) = text_input_names(i);
            let ids = rec.input(ids, Spec::i32(&[batch, self.tokens]));
            let last = both && i + 1 == self.text.len();
            let rows = last.then(|| rec.input(rows, Spec::i32(&[batch])));
            let dims = [self.learned, config.width];
            let name = (self.learned > 0).then(|| learned_rows(*component));
            let learned = name.map(|n| rec.param(&n, &dims, WeightLayout::Dense));
            let out = Net::new(rec, adapters).within(component.name(), |net| {
                text_encoder(net, config, &TextInputs { ids, rows, learned, padding: None })
            })?;
            let tokens = if both { out.penultimate } else { out.last };
            context = Some(match context {
                None => tokens,
                Some(first) => rec.scope("tokens", |r| r.apply(Concat, &[first, tokens]))?,
            });
            pooled = pooled.or(out.embeds);
        }
        let context = context.ok_or_else(|| Error::Data {
            at: self.name.clone(),
            found: "no text encoder".into(),
            expected: "one or two".into(),
            fix: "use a complete checkpoint".into(),
        })?;
        Ok(TextValues { context, pooled })
    }

    /// A plan that encodes `batch` prompts at a time with `adapters` on the text encoders.
    ///
    /// # Errors
    /// Those of the recording.
    pub fn text_plan(&self, adapters: &Adapters, batch: usize) -> Result<Plan> {
        let mut rec = Recorder::in_dtype(self.types);
        let text = self.record_text(&mut rec, adapters, batch)?;
        let pooled = text.pooled.map(|p| ("pooled", p));
        let outputs: Vec<(&str, Value)> =
            [("context", text.context)].into_iter().chain(pooled).collect();
        rec.plan(&outputs, Default::default())
    }

    /// A plan of the VAE encoder: input `sample [N, H, W, 3]` in `[-1, 1]`, output `moments [N, h, w, 2C]`.
    ///
    /// # Errors
    /// Those of the recording.
    pub fn vae_encoder(&self, batch: usize, [h, w]: [usize; 2]) -> Result<Plan> {
        let (mut rec, none) = (Recorder::in_dtype(self.vae_types()), Adapters::new());
        let sample = rec.input("sample", Spec::f32(&[batch, h, w, self.vae.in_channels]));
        let moments =
            Net::new(&mut rec, &none).within("vae", |net| encoder(net, &self.vae, sample))?;
        rec.plan(&[("moments", moments)], Default::default())
    }

    /// A plan of the VAE decoder: input `latent [N, h, w, C]` (unscaled latents), output `sample [N, H, W, 3]`.
    ///
    /// # Errors
    /// Those of the recording.
    pub fn vae_decoder(&self, batch: usize, [h, w]: [usize; 2]) -> Result<Plan> {
        let (mut rec, none) = (Recorder::in_dtype(self.vae_types()), Adapters::new());
        let latent = rec.input("latent", Spec::f32(&[batch, h, w, self.vae.latent_channels]));
        let sample =
            Net::new(&mut rec, &none).within("vae", |net| decoder(net, &self.vae, latent))?;
        rec.plan(&[("sample", sample)], Default::default())
    }
}
