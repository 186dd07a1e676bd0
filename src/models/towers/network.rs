//! A tower that looks at one picture, or reads one text, at a time.

use super::{Preparation, Tower, TowerInputs};
use crate::{
    device::Device,
    error::{Error, Result},
    lora::Adapters,
    models::{
        checkpoint::{Checkpoint, Component},
        vit::Vit,
    },
    nn::Net,
    plan::{Pass, PlanOptions, Program, Recorder},
    tensor::{DType, Spec, Tensor, image::Picture},
};
use std::path::Path;

/// What a tower is given; those it has no use for stay empty.
#[derive(Clone, Copy, Debug, Default)]
pub struct Feed<'a> {
    /// A picture `[H, W, 3]`, with its height and width.
    pub pixels: Option<(&'a [f32], [usize; 2])>,
    /// The tokens of a text.
    pub ids: Option<&'a [i32]>,
    /// Where the text ends.
    pub end: Option<i32>,
    /// What is added to the scores of every token in every head.
    pub mask: Option<&'a [f32]>,
}

impl Feed<'_> {
    /// Height and width of the picture and length of the text: what a program is made for.
    fn size(&self) -> [usize; 3] {
        let [h, w] = self.pixels.map_or([0; 2], |(_, size)| size);
        [h, w, self.ids.map_or(0, <[i32]>::len)]
    }
}

/// An opened tower and its program, which is planned with the first input and again for one of another size.
#[derive(Debug)]
pub struct Network {
    checkpoint: Checkpoint,
    /// The tower with its sizes.
    pub tower: Tower,
    output: &'static str,
    device: Device,
    dtype: DType,
    program: Option<(Program, [usize; 3], Vec<usize>)>,
}

impl Network {
    /// Opens `component` of `path`, of whose outputs one is wanted.
    ///
    /// # Errors
    /// Those of reading; [`Error::Data`] for a picture tower of other than three channels.
    pub fn open(
        (component, output): (Component, &'static str),
        path: &Path,
        (device, dtype): (&Device, DType),
    ) -> Result<Self> {
        let checkpoint = Checkpoint::open(path, component)?;
        let tower = Tower::of(&checkpoint)?;
        if let Some(channels) = tower.channels().filter(|c| *c != 3) {
            return Err(Error::Data {
                at: path.display().to_string(),
                found: format!("a tower for pictures of {channels} channels"),
                expected: "3, colours".into(),
                fix: "give a tower for photos".into(),
            });
        }
        Ok(Self { checkpoint, tower, output, device: device.clone(), dtype, program: None })
    }

    /// The wanted output for one picture or text, first axis 1.
    ///
    /// # Errors
    /// [`Error::Weights`] for a checkpoint that does not fit; those of the device.
    pub fn run(&mut self, feed: &Feed<'_>) -> Result<Tensor> {
        let size = feed.size();
        if self.program.as_ref().is_none_or(|(_, known, _)| *known != size) {
            self.program = None; // its memory first
            let (program, dims) = self.load(feed)?;
            self.program = Some((program, size, dims));
        }
        let Some((program, _, dims)) = &mut self.program else {
            return Err(self.lacks()); // it was just put there
        };
        if let Some((pixels, _)) = feed.pixels {
            program.set("pixels", pixels)?;
        }
        if let Some(ids) = feed.ids {
            program.set_i32("ids", ids)?;
        }
        if let Some(end) = feed.end {
            program.set_i32("rows", &[end])?;
        }
        if let Some(mask) = feed.mask {
            program.set("mask", mask)?;
        }
        program.forward()?;
        Ok(Tensor { dims: dims.clone(), data: program.get(self.output)? })
    }

    fn load(&self, feed: &Feed<'_>) -> Result<(Program, Vec<usize>)> {
        let mut rec = Recorder::in_dtype(self.device.types(self.dtype));
        let tokens = feed.ids.map_or(0, <[i32]>::len);
        let given = TowerInputs {
            pixels: feed.pixels.map(|(_, [h, w])| rec.input("pixels", Spec::f32(&[1, h, w, 3]))),
            ids: feed.ids.map(|_| rec.input("ids", Spec::i32(&[1, tokens]))),
            rows: feed.end.map(|_| rec.input("rows", Spec::i32(&[1]))),
            mask: feed
                .mask
                .map(|m| rec.input("mask", Spec::f32(&[1, tokens, m.len() / tokens.max(1)]))),
            ..TowerInputs::default()
        };
        let none = Adapters::new();
        let mut net = Net::new(&mut rec, &none);
        let name = self.checkpoint.component().name();
        let outputs = net.within(name, |net| self.tower.record(net, &given))?;
        let wanted = outputs.into_iter().find(|(name, _)| *name == self.output);
        let wanted = wanted.ok_or_else(|| self.lacks())?;
        self.checkpoint.check(&rec.params())?;
        let dims = rec.spec(wanted.1).dims.clone();
        let options = PlanOptions { pass: Pass::Inference, ..PlanOptions::default() };
        let plan = rec.plan(&[wanted], options)?;
        Ok((plan.load(self.device.clone(), &self.checkpoint)?, dims))
    }

    fn lacks(&self) -> Error {
        Error::Data {
            at: self.checkpoint.source().into(),
            found: format!("a tower without {}", self.output),
            expected: format!("one that gives {}", self.output),
            fix: "give the whole model, with its projection".into(),
        }
    }
}

/// A tower for pictures, with how they are prepared for it.
#[derive(Debug)]
pub struct PictureTower {
    preparation: Preparation,
    network: Network,
}

impl PictureTower {
    /// Opens `component` of `path`, of whose outputs one is wanted.
    ///
    /// # Errors
    /// As [`Network::open`]; those of its `preprocessor_config.json`.
    pub fn open(
        wanted: (Component, &'static str),
        path: &Path,
        place: (&Device, DType),
    ) -> Result<Self> {
        let network = Network::open(wanted, path, place)?;
        let preparation = Preparation::of(wanted.0, path, network.tower.side())?;
        Ok(Self { preparation, network })
    }

    /// The wanted output for a picture, first axis 1.
    ///
    /// # Errors
    /// Those of the network; [`Error::Data`] for a picture that cannot be prepared.
    pub fn look(&mut self, picture: &Picture) -> Result<Tensor> {
        let frame = self.preparation.frame(picture)?;
        let samples = self.preparation.samples(&frame);
        let pixels = Some((&samples[..], [frame.height, frame.width]));
        self.network.run(&Feed { pixels, ..Feed::default() })
    }
}

/// Width of the projected features of the CLIP image tower in `path`.
///
/// # Errors
/// Those of reading; [`Error::Data`] for a tower without a projection.
pub fn image_width(path: &Path) -> Result<usize> {
    let checkpoint = Checkpoint::open(path, Component::ClipImage)?;
    match Tower::of(&checkpoint)? {
        Tower::ClipImage(Vit { projection: Some(width), .. }) => Ok(width),
        _ => Err(Error::Data {
            at: path.display().to_string(),
            found: "an image tower without its projection".into(),
            expected: "one that gives image_embeds".into(),
            fix: "give the whole CLIP".into(),
        }),
    }
}
