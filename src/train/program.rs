//! The recorded step of a U-Net: which modules are adapted, which weights are trained, what conditions it.

use super::{
    Noisy, StepOptions,
    step::{Objective, Predicted, record},
};
use crate::{
    error::{Error, Result},
    lora::{Adapter, Adapters},
    models::{
        decoupling::PREFIX,
        unet::{UnetConfig, UnetInputs, unet},
    },
    nn::Net,
    plan::{ParamInfo, Plan, Recorder, Value},
    tensor::Spec,
};
use regex::Regex;

/// What is trained.
#[derive(Clone, Debug)]
pub enum Trained {
    /// Adapters on these modules (full paths, `unet.` first).
    Adapters(Adapters),
    /// The weights whose full names match.
    Weights(Patterns),
}

impl Trained {
    /// The adapters, none in full training.
    pub fn adapters(&self) -> Adapters {
        match self {
            Trained::Adapters(a) => a.clone(),
            Trained::Weights(_) => Adapters::new(),
        }
    }

    /// Tells `rec` which parameters are trained.
    pub fn apply(&self, rec: &mut Recorder) {
        match self {
            Trained::Adapters(_) => rec.train_if(|name| is_adapter(name) || is_decoupling(name)),
            Trained::Weights(patterns) => {
                let patterns = patterns.clone();
                rec.train_if(move |name| patterns.matches(name));
            }
        }
    }
}

/// Whether a parameter belongs to an adapter.
pub fn is_adapter(name: &str) -> bool {
    name.contains(".lora_A.") || name.contains(".lora_B.")
}

/// Whether a parameter belongs to the decoupling: its adapter, its projection, its fusion.
pub fn is_decoupling(name: &str) -> bool {
    name.strip_prefix(PREFIX).is_some_and(|rest| rest.starts_with('.'))
}

/// Module patterns as a configuration gives them: ends of dotted names, or regular expressions when they hold `*`,
/// `(` or `^`.
#[derive(Clone, Debug)]
pub struct Patterns(Vec<(String, Option<Regex>)>);

impl Patterns {
    /// Reads `words`; `key` is named in errors.
    ///
    /// # Errors
    /// [`Error::Config`] for a regular expression that is none.
    pub fn new(key: &str, words: &[String]) -> Result<Self> {
        let one = |word: &String| {
            if !word.contains(['*', '(', '^', '[', '\\']) {
                return Ok((word.clone(), None));
            }
            let regex = Regex::new(word).map_err(|e| Error::Config {
                key: key.into(),
                found: format!("`{word}`: {e}"),
                expected: "the end of a layer name, or a regular expression".into(),
                fix: "for example `to_q` or `down_blocks.*attn2.to_k`".into(),
            })?;
            Ok((word.clone(), Some(regex)))
        };
        words.iter().map(one).collect::<Result<_>>().map(Self)
    }

    /// Whether `name` ends in one of the words (at a dot), lies below one, or matches an expression.
    pub fn matches(&self, name: &str) -> bool {
        self.0.iter().any(|(word, regex)| match regex {
            Some(r) => r.is_match(name),
            None => {
                let end = name.strip_suffix(word).is_some_and(|r| r.is_empty() || r.ends_with('.'));
                end || name.strip_prefix(word).is_some_and(|r| r.starts_with('.'))
            }
        })
    }

    /// Refuses words that none of `names` matches.
    ///
    /// # Errors
    /// [`Error::Config`] that lists them.
    pub fn all_match<'n>(
        &self,
        key: &str,
        names: impl Iterator<Item = &'n str> + Clone,
    ) -> Result<()> {
        let idle = |one: &&(String, Option<Regex>)| {
            let alone = Patterns(vec![(*one).clone()]);
            !names.clone().any(|n| alone.matches(n))
        };
        let words: Vec<&str> = self.0.iter().filter(idle).map(|(w, _)| w.as_str()).collect();
        match words.is_empty() && !self.0.is_empty() {
            true => Ok(()),
            false => Err(Error::Config {
                key: key.into(),
                found: format!("{words:?}, which no layer matches"),
                expected: "ends of layer names such as to_q".into(),
                fix: "layer names stand in the output of selvedge plan train".into(),
            }),
        }
    }

    /// One adapter on every module of `params` that matches.
    ///
    /// # Errors
    /// [`Error::Config`] when a word matches none.
    pub fn adapt(&self, key: &str, params: &[ParamInfo], adapter: Adapter) -> Result<Adapters> {
        let one = Adapters::on(params, adapter, |_| true);
        self.all_match(key, one.iter().map(|(path, _)| path).collect::<Vec<_>>().into_iter())?;
        Ok(Adapters::on(params, adapter, |path| self.matches(path)))
    }
}

/// The text side of a step.
#[derive(Clone, Copy, Debug)]
pub struct Text {
    /// Tokens `[N, L, C]`.
    pub context: Value,
    /// Pooled vector `[N, D]`.
    pub text_embeds: Option<Value>,
    /// Micro-conditioning `[N, 6]`.
    pub time_ids: Option<Value>,
}

/// Text as fed inputs `context`, `text_embeds` and `time_ids`.
pub fn text_inputs(rec: &mut Recorder, config: &UnetConfig, batch: usize, tokens: usize) -> Text {
    let width = config.context_dim().unwrap_or(1);
    let context = rec.input("context", Spec::f32(&[batch, tokens, width]));
    let mut input = |name: &str, width| rec.input(name, Spec::f32(&[batch, width]));
    let pooled = config.text_time.map(|t| input("text_embeds", t.pooled_dim()));
    let ids = config.text_time.map(|_| input("time_ids", 6));
    Text { context, text_embeds: pooled, time_ids: ids }
}

/// The parameters of a U-Net, found by recording it once on a small picture.
///
/// # Errors
/// Those of the recording.
pub fn unet_params(config: &UnetConfig) -> Result<Vec<ParamInfo>> {
    let mut rec = Recorder::new();
    let side = 1 << config.down.len();
    let sample = rec.input("sample", Spec::f32(&[1, side, side, config.in_channels]));
    let timestep = rec.input("timestep", Spec::f32(&[1]));
    let text = text_inputs(&mut rec, config, 1, 1);
    predict(&mut rec, config, &Adapters::new(), text, (sample, timestep))?;
    Ok(rec.params())
}

/// Records a U-Net named `unet` with `adapters`.
///
/// # Errors
/// Those of the recording.
pub fn predict(
    rec: &mut Recorder,
    config: &UnetConfig,
    adapters: &Adapters,
    text: Text,
    (sample, timestep): (Value, Value),
) -> Result<Value> {
    let Text { context, text_embeds, time_ids } = text;
    let inputs = UnetInputs { sample, timestep, context, text_embeds, time_ids };
    Net::new(rec, adapters).within("unet", |net| unet(net, config, &inputs))
}

/// Plans a training step of a U-Net whose text side `text` records (inputs, or encoders).
///
/// # Errors
/// Those of the recording and the plan; [`Error::Config`] for DCO with trained weights: it needs the model
/// without its changes, and only adapters can be left out.
pub fn plan_step(
    config: &UnetConfig,
    trained: &Trained,
    options: &StepOptions,
    text: impl FnOnce(&mut Recorder, &Adapters) -> Result<Text>,
) -> Result<Plan> {
    let dco = matches!(options.objective, Objective::Dco { .. });
    if dco && matches!(trained, Trained::Weights(_)) {
        return Err(Error::Config {
            key: "method.loss".into(),
            found: "dco in mode full".into(),
            expected: "dco with adapters".into(),
            fix: "set train.mode = \"lora\", or method.loss = \"mse\"".into(),
        });
    }
    let mut rec = Recorder::in_dtype(options.types);
    trained.apply(&mut rec);
    let (adapters, none) = (trained.adapters(), Adapters::new());
    let text = text(&mut rec, &adapters)?;
    let decoupled = options.decoupled.as_ref();
    let branches =
        decoupled.map(|d| d.record(&mut rec, text.context, options.batch)).transpose()?;
    record(rec, options, branches.as_ref(), |rec, noisy: Noisy| {
        let own = branches.as_ref().map(|b| b.context);
        let (adapters, context) = match noisy.pass {
            Predicted::Trained => (&adapters, own),
            Predicted::Weak => (&adapters, branches.as_ref().and_then(|b| b.weak)),
            Predicted::Base => (&none, None),
        };
        let text = Text { context: context.unwrap_or(text.context), ..text };
        predict(rec, config, adapters, text, (noisy.latents, noisy.timestep))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_match_at_dots_only_and_expressions_anywhere() {
        let p = Patterns::new("k", &["to_q".into(), "mid_block.*to_v".into()]).unwrap();
        assert!(p.matches("unet.a.attn1.to_q"));
        assert!(!p.matches("unet.a.attn1.not_to_q") && !p.matches("unet.a.to_v"));
        assert!(p.matches("unet.mid_block.x.to_v"));
        let whole = Patterns::new("k", &["unet.mid_block".into()]).unwrap();
        assert!(whole.matches("unet.mid_block.conv.weight"));
        assert!(!whole.matches("unet.mid_blocks.conv.weight"));
        assert!(Patterns::new("k", &["(".into()]).is_err());
    }
}
