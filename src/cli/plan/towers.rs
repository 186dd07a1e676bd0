//! Plans of the towers that judge pictures.

use crate::cli::common::TOKENS;
use crate::{
    cli::bench::Latent,
    error::{Error, Result},
    lora::Adapters,
    models::{
        checkpoint::{Checkpoint, Component, config_of},
        towers::{Tower, TowerInputs},
    },
    nn::Net,
    plan::{Plan, Recorder},
    tensor::{Spec, Types},
};
use std::path::Path;

/// Sizes of a pass.
pub(super) struct Size {
    pub batch: usize,
    /// Length of the texts, where it is not the tower's own.
    pub tokens: Option<usize>,
    /// Height and width in pixels, where they are not the tower's own.
    pub picture: Option<Latent>,
    pub types: Types,
}

/// One pass of `component` of `model`: transformers' configuration is enough, original names need their file.
///
/// # Errors
/// Those of the files and of the recording; [`Error::Weights`] for a file that does not fit.
pub(super) fn plan(component: Component, model: &str, size: &Size) -> Result<Plan> {
    let folder = Path::new(model);
    let alone = component != Component::DreamSim && component != Component::ImageReward;
    let (tower, checkpoint) = match alone && folder.join("config.json").is_file() {
        true => (Tower::of_config(component, &config_of(folder, component)?)?, None),
        false => {
            let checkpoint = Checkpoint::open(folder, component)?;
            (Tower::of(&checkpoint)?, Some(checkpoint))
        }
    };
    let (mut rec, none) = (Recorder::in_dtype(size.types), Adapters::new());
    let (pictures, texts) = tower.takes();
    let mut given = TowerInputs::default();
    let n = size.batch;
    if pictures {
        let [h, w] = size.picture.map_or(tower.side(), |Latent(sides)| sides);
        given.pixels = Some(rec.input("pixel_values", Spec::f32(&[n, h, w, 3])));
    } else if size.picture.is_some() {
        return Err(Error::Config {
            key: "--size".into(),
            found: "a size of pictures".into(),
            expected: "nothing: this tower reads texts".into(),
            fix: "leave it out".into(),
        });
    }
    let tokens = size.tokens.unwrap_or(match &tower {
        Tower::Owlv2(config) => config.text.positions,
        _ => TOKENS,
    });
    if texts {
        given.ids = Some(rec.input("input_ids", Spec::i32(&[n, tokens])));
        given.rows = Some(rec.input("rows", Spec::i32(&[n])));
    }
    if let Tower::ImageReward(reward) = &tower {
        given.mask = Some(rec.input("mask", Spec::f32(&[n, tokens, reward.heads])));
    }
    if matches!(tower, Tower::Owlv2(_)) {
        given.queries = Some(rec.input("queries", Spec::f32(&[n, 1])));
    }
    let mut net = Net::new(&mut rec, &none);
    let outputs = net.within(component.name(), |net| tower.record(net, &given))?;
    if let Some(checkpoint) = checkpoint {
        checkpoint.check(&rec.params())?;
    }
    rec.plan(&outputs, Default::default())
}
