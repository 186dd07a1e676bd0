//! From a picture to what a tower takes: resized, cropped and normalized as its publisher does.

use crate::{
    error::{Error, Result},
    models::{
        checkpoint::{Component, model_json},
        config::Keys,
    },
    tensor::image::{Filter, Picture},
};
use serde_json::{Value as Json, json};
use std::path::Path;

/// Mean and deviation of ImageNet's pictures, by channel.
pub(super) const IMAGENET: [[f32; 3]; 2] = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]];

/// Those of CLIP's.
pub(super) const CLIP: [[f32; 3]; 2] =
    [[0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_6, 0.275_777_1]];

/// Nothing is taken off.
const PLAIN: [[f32; 3]; 2] = [[0.0; 3], [1.0; 3]];

/// What becomes of a picture's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resize {
    /// Stays.
    Not,
    /// The shorter side gets this length, the longer one is truncated.
    Shorter(usize),
    /// Height and width, whatever they were.
    Fixed([usize; 2]),
}

/// Where the half of an odd rest goes when the centre is cropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Half {
    /// Off, as transformers does.
    Down,
    /// To the even number, as torchvision does.
    Even,
}

/// How pictures are prepared for a tower.
#[derive(Clone, Debug, PartialEq)]
pub struct Preparation {
    resize: Resize,
    filter: Filter,
    /// Height and width of the middle that is kept.
    crop: Option<[usize; 2]>,
    half: Half,
    /// What a sample of 8 bits is multiplied with.
    scale: f64,
    /// Mean and deviation by channel.
    statistics: [[f32; 3]; 2],
}

/// The file in which transformers keeps a preparation.
const FILE: &str = "preprocessor_config.json";

/// Longest side of a prepared picture, pixels.
const LONGEST: usize = 1 << 15;

impl Preparation {
    /// That of `component` in `model`, made for pictures of `side` (height and width): its
    /// `preprocessor_config.json`, else the published one. CLIP and ImageReward: the shorter side and the crop are the
    /// tower's, with CLIP's statistics. DINOv2 and DINO: 256 and 224 with ImageNet's. DreamSim: 224 x 224, proportions
    /// aside, as it is.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first key of the file that is not understood; those of reading it.
    pub fn of(component: Component, model: &Path, side: [usize; 2]) -> Result<Self> {
        let shorter = side[0].max(side[1]);
        let published = |resize, crop, half, statistics| Self {
            resize,
            filter: Filter::Bicubic,
            crop,
            half,
            scale: 1.0 / 255.0,
            statistics,
        };
        let dino = |half| published(Resize::Shorter(256), Some([224; 2]), half, IMAGENET);
        match component {
            Component::DreamSim => {
                return Ok(published(Resize::Fixed([224; 2]), None, Half::Down, PLAIN));
            }
            Component::ImageReward => {
                return Ok(published(Resize::Shorter(shorter), Some(side), Half::Even, CLIP));
            }
            _ => {}
        }
        if let Some(json) = model_json(model, FILE)? {
            return Self::from_json(&json, component);
        }
        if component == Component::Dinov2 {
            return Ok(dino(Half::Down));
        }
        if component == Component::Dino {
            return Ok(dino(Half::Even));
        }
        let half = if model.join("config.json").is_file() { Half::Down } else { Half::Even };
        let mut clip = published(Resize::Shorter(shorter), Some(side), half, CLIP);
        if let Some(json) = model_json(model, "open_clip_config.json")? {
            clip.statistics = open_clip(&json["preprocess_cfg"])?;
        }
        Ok(clip)
    }

    /// Reads what transformers' `CLIPImageProcessor`, `BitImageProcessor` and `ViTImageProcessor` write.
    fn from_json(json: &Json, component: Component) -> Result<Self> {
        let mut k = Keys::new(FILE, json)?;
        let usual = match component {
            Component::Dinov2 => "Bit",
            Component::Dino => "ViT",
            _ => "CLIP",
        };
        let mut kind = usual;
        for (key, ending) in [
            ("feature_extractor_type", "FeatureExtractor"),
            ("image_processor_type", "ImageProcessor"),
        ] {
            let Some(name) = k.get(key) else { continue };
            let known = ["CLIP", "Bit", "ViT"].into_iter().find(|kind| {
                let tail = name.as_str().and_then(|n| n.strip_prefix(&format!("{kind}{ending}")));
                tail.is_some_and(|t| ["", "Fast", "Pil"].contains(&t))
            });
            let expected = "CLIP, Bit or ViT before its ending";
            kind = known.ok_or_else(|| k.wrong(key, expected))?;
        }
        let square = k.flag("default_to_square", kind == "ViT")?;
        let resize = match k.flag("do_resize", true)? {
            true => size(&mut k, "size", square)?,
            false => Resize::Not,
        };
        let filter = match k.number("resample", if kind == "ViT" { 2 } else { 3 })? {
            0 => Filter::Nearest,
            1 => Filter::Lanczos,
            2 => Filter::Bilinear,
            3 => Filter::Bicubic,
            4 => Filter::Box,
            _ => return Err(k.wrong("resample", "one of Pillow's filters, 0 to 4")),
        };
        let crop = match k.flag("do_center_crop", kind != "ViT")? {
            true => match size(&mut k, "crop_size", true)? {
                Resize::Fixed(sides) => Some(sides),
                _ => return Err(k.wrong("crop_size", "one side, or height and width")),
            },
            false => None,
        };
        let scale = k.double("rescale_factor", 1.0 / 255.0)?;
        let scale = if k.flag("do_rescale", true)? { scale } else { 1.0 };
        let natural = if kind == "ViT" { [[0.5; 3]; 2] } else { CLIP };
        let mean = three(&mut k, "image_mean", natural[0])?;
        let deviation = three(&mut k, "image_std", natural[1])?;
        if deviation.contains(&0.0) {
            return Err(k.wrong("image_std", "three numbers, none of them 0"));
        }
        let statistics = if k.flag("do_normalize", true)? { [mean, deviation] } else { PLAIN };
        // our pictures have three channels, rows first, whatever is said here
        k.skip(&["do_convert_rgb", "processor_class", "size", "crop_size", "input_data_format"]);
        k.skip(&["return_tensors", "_valid_processor_keys", "disable_grouping", "device"]);
        k.neutral(&[("data_format", json!("channels_first")), ("do_pad", json!(false))])?;
        k.finish()?;
        Ok(Self { resize, filter, crop, half: Half::Down, scale, statistics })
    }

    /// The picture in the size that the tower takes, 8 bits, RGB: by Pillow's rules, bit for bit.
    ///
    /// # Errors
    /// [`Error::Data`] for a picture so narrow that its longer side grows beyond 32768 pixels.
    pub fn frame(&self, picture: &Picture) -> Result<Picture> {
        let rgb = picture.rgb();
        let sized = match self.resize {
            Resize::Not => rgb,
            Resize::Fixed([h, w]) => rgb.resize(w, h, self.filter),
            Resize::Shorter(side) => {
                let (shorter, longer) = (rgb.width.min(rgb.height), rgb.width.max(rgb.height));
                if side.saturating_mul(longer) > LONGEST.saturating_mul(shorter) {
                    return Err(Error::Data {
                        at: "a picture".into(),
                        found: format!("{} x {} pixels", rgb.width, rgb.height),
                        expected: format!("at most {LONGEST} along, when it is {side} across"),
                        fix: "cut it".into(),
                    });
                }
                rgb.shorter_side(side, self.filter)
            }
        };
        let Some([h, w]) = self.crop else { return Ok(sized) };
        let start = |has: usize, wants: usize| {
            let rest = has as i64 - wants as i64;
            match self.half {
                Half::Down => rest.div_euclid(2),
                Half::Even => (rest as f64 / 2.0).round_ties_even() as i64,
            }
        };
        Ok(sized.crop(start(sized.width, w), start(sized.height, h), w, h))
    }

    /// The samples of a [`Preparation::frame`] as the tower takes them, `[H, W, 3]`.
    pub fn samples(&self, frame: &Picture) -> Vec<f32> {
        let [mean, deviation] = &self.statistics;
        let one = |(i, v): (usize, &u8)| {
            ((f64::from(*v) * self.scale) as f32 - mean[i % 3]) / deviation[i % 3]
        };
        frame.data.iter().enumerate().map(one).collect()
    }
}

/// A size: one number (a square, or the shorter side), `shortest_edge`, or `height` and `width`.
fn size(k: &mut Keys<'_>, key: &'static str, square: bool) -> Result<Resize> {
    let usual = json!(224);
    let value = k.get(key).unwrap_or(&usual);
    let side = |k: &Keys<'_>, v: &Json| match k.whole(key, v) {
        Ok(n) if (1..=LONGEST).contains(&n) => Ok(n),
        _ => Err(k.wrong(key, format!("pixels, 1 to {LONGEST}"))),
    };
    let Some(named) = value.as_object() else {
        let n = side(k, value)?;
        return Ok(if square { Resize::Fixed([n; 2]) } else { Resize::Shorter(n) });
    };
    match (named.len(), named.get("shortest_edge"), named.get("height"), named.get("width")) {
        (1, Some(n), ..) => Ok(Resize::Shorter(side(k, n)?)),
        (2, None, Some(h), Some(w)) => Ok(Resize::Fixed([side(k, h)?, side(k, w)?])),
        _ => Err(k.wrong(key, "shortest_edge, or height and width")),
    }
}

fn three(k: &mut Keys<'_>, key: &'static str, usual: [f32; 3]) -> Result<[f32; 3]> {
    let Some(value) = k.get(key) else { return Ok(usual) };
    let numbers = value.as_array().filter(|a| a.len() == 3);
    let mut all = numbers.into_iter().flatten().map(|v| v.as_f64().filter(|x| x.is_finite()));
    match [all.next(), all.next(), all.next()] {
        [Some(Some(r)), Some(Some(g)), Some(Some(b))] => Ok([r as f32, g as f32, b as f32]),
        _ => Err(k.wrong(key, "three numbers, one a channel")),
    }
}

/// The statistics of open_clip's own configuration; its other keys must ask for what is done anyway.
fn open_clip(json: &Json) -> Result<[[f32; 3]; 2]> {
    if json.is_null() {
        return Ok(CLIP);
    }
    let mut k = Keys::new("open_clip_config.json: preprocess_cfg", json)?;
    let [mean, deviation] = [three(&mut k, "mean", CLIP[0])?, three(&mut k, "std", CLIP[1])?];
    if deviation.contains(&0.0) {
        return Err(k.wrong("std", "three numbers, none of them 0"));
    }
    k.name("interpolation", &["bicubic"])?;
    k.name("resize_mode", &["shortest"])?;
    k.name("mode", &["RGB"])?;
    // the size is the tower's; nothing is filled where the shorter side is resized
    k.skip(&["size", "fill_color"]);
    k.finish()?;
    Ok([mean, deviation])
}
