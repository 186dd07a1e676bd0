//! Segment Anything on photos: one network input a photo, one mask a prompt.

use super::{
    frame::Frame,
    prompt::{Prompt, Rectangle},
};
use crate::{
    device::Device,
    error::{Error, Result},
    lora::Adapters,
    models::{
        checkpoint::{Checkpoint, Component, POSITIONS},
        sam::{
            DecoderConfig, EncoderConfig, Points, Prompted, Prompts, grid_positions, image_encoder,
            mask_decoder,
        },
    },
    nn::Net,
    plan::{Pass, PlanOptions, Program, Recorder, Value},
    tensor::{DType, Spec, image::Picture},
};
use std::path::Path;

/// Side of the input of an encoder that takes any.
const SIDE: usize = 1024;

/// A mask and what the network thinks of it.
#[derive(Clone, Debug)]
pub struct Cut {
    /// 255 where the subject is, of the photo's size.
    pub mask: Picture,
    /// Predicted intersection over union with the true mask.
    pub quality: f32,
}

/// A loaded network.
#[derive(Debug)]
pub struct Segmenter {
    device: Device,
    dtype: DType,
    input: [usize; 2],
    cells: [usize; 2],
    encoder: Program,
    decoder: Checkpoint,
    config: DecoderConfig,
    matrix: Vec<f32>,
}

impl Segmenter {
    /// Loads a SAM of any size, or MobileSAM, from a file or folder.
    ///
    /// # Errors
    /// Those of reading; [`Error::Weights`] for names that are missing or unknown.
    pub fn open(path: &Path, device: Device, dtype: DType) -> Result<Self> {
        let weights = Checkpoint::open(path, Component::SamImageEncoder)?;
        let config = EncoderConfig::from_json(weights.config())?;
        if config.channels() != 3 {
            return Err(Error::Data {
                at: path.display().to_string(),
                found: format!("an encoder of {} channels", config.channels()),
                expected: "3, a colour photo".into(),
                fix: "give a segmenter for photos".into(),
            });
        }
        let input = config.picture().unwrap_or([SIDE; 2]);
        let decoder = Checkpoint::open(path, Component::SamMaskDecoder)?;
        let matrix = decoder.tensor(POSITIONS)?.data;
        let mut rec = Recorder::in_dtype(device.types(dtype));
        let pixels = rec.input("pixel_values", Spec::f32(&[1, input[0], input[1], 3]));
        let out = within(&mut rec, &weights, |net| image_encoder(net, &config, pixels))?;
        let dims = rec.spec(out).dims.clone();
        let (cells, channels) = ([dims[1], dims[2]], dims[3]);
        let encoder = load(rec, &[("image_embeddings", out)], &weights, &device)?;
        let config = DecoderConfig::from_json(decoder.config())?;
        if channels != config.width {
            return Err(Error::Data {
                at: path.display().to_string(),
                found: format!("{channels} channels out of the encoder"),
                expected: format!("{}, which the mask decoder takes", config.width),
                fix: "give encoder and decoder of one network".into(),
            });
        }
        Ok(Self { device, dtype, input, cells, encoder, decoder, config, matrix })
    }

    /// The mask of what `prompt` shows in `photo`: single-mask output, mask 0.
    ///
    /// # Errors
    /// For a prompt outside the photo; those of the device.
    pub fn cut(&mut self, photo: &Picture, prompt: &Prompt) -> Result<Cut> {
        let size = [photo.height, photo.width];
        prompt.check(size)?;
        let frame = Frame::fit(size, self.input);
        self.encoder.set("pixel_values", &frame.pixels(photo))?;
        self.encoder.forward()?;
        let embeddings = self.encoder.get("image_embeddings")?;
        let [h, w] = self.cells;
        let width = self.config.width;
        let tokens = prompts(&frame, prompt).tokens(&self.matrix, self.config.masks, self.input)?;
        let mut rec = Recorder::in_dtype(self.device.types(self.dtype));
        let image = rec.input("image_embeddings", Spec::f32(&[1, h, w, width]));
        let ids = rec.input("token_ids", Spec::i32(&[1, tokens.count]));
        let positions = rec.input("token_positions", Spec::f32(&[tokens.count, width]));
        let cells = grid_positions(&self.matrix, [h, w]);
        let cells = rec.table("cell_positions", &[h * w, width], cells);
        let given =
            Prompted { image, cells, ids, positions, prompts: 1, masks: None, multimask: false };
        let config = &self.config;
        let out = within(&mut rec, &self.decoder, |net| mask_decoder(net, config, &given))?;
        let logits = rec.spec(out.masks).dims.clone();
        let named = [("pred_masks", out.masks), ("iou_scores", out.scores)];
        let mut program = load(rec, &named, &self.decoder, &self.device)?;
        program.set("image_embeddings", &embeddings)?;
        program.set_i32("token_ids", &tokens.ids)?;
        program.set("token_positions", &tokens.positions)?;
        program.forward()?;
        let quality = program.get("iou_scores")?.first().copied().unwrap_or(f32::NAN);
        let mask = frame.mask(&program.get("pred_masks")?, [logits[1], logits[2]]);
        Ok(Cut { mask, quality })
    }
}

/// Records a component under its name.
fn within<T>(
    rec: &mut Recorder,
    weights: &Checkpoint,
    model: impl FnOnce(&mut Net<'_>) -> Result<T>,
) -> Result<T> {
    let adapters = Adapters::default();
    Net::new(rec, &adapters).within(weights.component().name(), model)
}

/// Plans and loads a recording, all of whose weights the checkpoint must have.
fn load(
    rec: Recorder,
    outputs: &[(&str, Value)],
    weights: &Checkpoint,
    device: &Device,
) -> Result<Program> {
    weights.check(&rec.params())?;
    let options = PlanOptions { pass: Pass::Inference, ..PlanOptions::default() };
    rec.plan(outputs, options)?.load(device.clone(), weights)
}

/// The prompt in pixels of the network's input.
fn prompts(frame: &Frame, prompt: &Prompt) -> Prompts {
    let points = (!prompt.points.is_empty()).then(|| Points {
        count: prompt.points.len(),
        at: prompt.points.iter().flat_map(|p| frame.place([p.x, p.y])).collect(),
        labels: prompt.points.iter().map(|p| i64::from(p.inside)).collect(),
    });
    let corners = |Rectangle([x0, y0, x1, y1]): Rectangle| {
        [frame.place([x0, y0]), frame.place([x1, y1])].concat()
    };
    Prompts { pictures: 1, per_picture: 1, points, boxes: prompt.area.map(corners) }
}
