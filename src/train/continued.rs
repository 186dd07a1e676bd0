//! A run that goes on from an adapter: its factors in the place of fresh ones.

use super::{InitialWeights, Trained, is_adapter, is_decoupling, modules};
use crate::{
    data::TrainConfig,
    error::{Error, Result},
    lora::{Adapters, Layer, Lora},
    models::base::Base,
    plan::{ParamInfo, WeightSource},
    tensor::safetensors::Raw,
};

/// The adapter of `train.from` as this run's adapters: the same modules and ranks, its alpha folded into B, so that
/// the first step starts from exactly what the file adds to the base. `None` when the run starts fresh.
///
/// # Errors
/// [`Error::Config`] when modules or ranks differ from the run's; those of the file.
pub fn continued(config: &TrainConfig, base: &Base, trained: &Trained) -> Result<Option<Lora>> {
    let (path, Trained::Adapters(adapters)) = (&config.train.from, trained) else {
        return Ok(None);
    };
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let mut lora = Lora::open(path, "unet", &modules(base))?;
    let bad = |found: String, expected: String, fix: &str| Error::Config {
        key: "train.from".into(),
        found: format!("{}: {found}", path.display()),
        expected,
        fix: fix.into(),
    };
    let absent: Vec<&str> =
        adapters.iter().map(|(m, _)| m).filter(|m| !lora.layers.contains_key(*m)).collect();
    let extra: Vec<&str> =
        lora.layers.keys().map(String::as_str).filter(|m| adapters.at(m).is_empty()).collect();
    if let Some(first) = absent.first() {
        let found = format!("nothing for {} of the run's modules, {first} first", absent.len());
        let fix = "set train.targets (and train.train_text_encoder) as they were for that file";
        return Err(bad(found, "an adapter of the same modules".into(), fix));
    }
    if let Some(first) = extra.first() {
        let found = format!("{} modules that the run does not train, {first} first", extra.len());
        let fix = "add them to train.targets, or set train.train_text_encoder = true";
        return Err(bad(found, "an adapter of the same modules".into(), fix));
    }
    let rank = config.train.rank;
    if let Some(other) = lora.layers.values().find(|l| l.rank() != rank) {
        let found = format!("{} of rank {}", other.module, other.rank());
        let fix = format!("set train.rank = {}", other.rank());
        return Err(bad(found, format!("rank {rank}, that of the run"), &fix));
    }
    if config.decouples() != lora.decoupling().is_some() {
        let (found, fix) = match config.decouples() {
            true => ("an adapter without a decoupling", "start fresh, or from a decoupled one"),
            false => ("a decoupled adapter", "set decoupling.enabled = true, or its method"),
        };
        return Err(bad(found.into(), "what the run trains".into(), fix));
    }
    let (own, words) = (config.learned_words(), lora.words()?);
    if own != words {
        let fix = "set decoupling.train_text and the subjects' tokens as they were for that file";
        return Err(bad(format!("learned words {words:?}"), format!("{own:?}"), fix));
    }
    for layer in lora.layers.values_mut() {
        fold(layer, adapters)?;
    }
    Ok(Some(lora))
}

/// `alpha_file / r * B A = alpha_run / r * B' A` with `B' = alpha_file / alpha_run * B`, in f32.
fn fold(layer: &mut Layer, adapters: &Adapters) -> Result<()> {
    let own = adapters.at(&layer.module).first().map_or(1.0, |a| a.scale);
    let factor = layer.scale() / own;
    let (Some(down), Some(mut up)) = (layer.down.to_tensor(), layer.up.to_tensor()) else {
        return Ok(()); // the reader admits floats only
    };
    if factor != 1.0 {
        up.data.iter_mut().for_each(|v| *v *= factor);
    }
    let (alpha, dtype) = (own * layer.rank() as f32, crate::tensor::safetensors::Dtype::F32);
    *layer = Layer::new(&layer.module, &down, &up, alpha, dtype)?;
    Ok(())
}

/// Gives the factors of `lora` to the adapters among `params`.
///
/// # Errors
/// [`Error::Weights`] for a module that `lora` lacks.
pub fn give<S: WeightSource>(
    start: &mut InitialWeights<S>,
    lora: &Lora,
    params: &[ParamInfo],
) -> Result<()> {
    for p in params.iter().filter(|p| is_adapter(&p.name) || is_decoupling(&p.name)) {
        let (down, up) = (".lora_A.weight", ".lora_B.weight");
        let found = match (p.name.strip_suffix(down), p.name.strip_suffix(up)) {
            (Some(module), _) => lora.layers.get(module).map(|l| &l.down),
            (_, Some(module)) => lora.layers.get(module).map(|l| &l.up),
            _ => lora.beside.get(&p.name),
        };
        let fits = |raw: &&Raw| raw.dims == p.layout.checkpoint_dims(&p.dims);
        let found = found.filter(|raw| is_adapter(&p.name) || fits(raw));
        let Some(tensor) = found.and_then(|raw| raw.to_tensor()) else {
            return Err(Error::Weights {
                source_name: "train.from".into(),
                missing: vec![format!("{} {:?}", p.name, p.layout.checkpoint_dims(&p.dims))],
                unknown: vec![],
                misshaped: vec![],
            });
        };
        start.give(&p.name, p.layout.to_runtime(&p.dims, tensor.data));
    }
    Ok(())
}
