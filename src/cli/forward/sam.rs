//! Segment Anything's two components with their inputs and outputs as files name them.

use super::inputs::{Inputs, Output};
use crate::{
    error::{Error, Result},
    lora::Adapters,
    models::{
        checkpoint::{Checkpoint, POSITIONS},
        sam::{
            DecoderConfig, EncoderConfig, Points, Prompted, Prompts, STRIDE, grid_positions,
            image_encoder, mask_decoder,
        },
    },
    nn::Net,
    plan::Value,
    tensor::Tensor,
};

/// `pixel_values -> image_embeddings`.
pub(super) fn record_encoder(
    inputs: &mut Inputs<'_>,
    adapters: &Adapters,
    checkpoint: &Checkpoint,
) -> Result<Vec<Output>> {
    let config = EncoderConfig::from_json(checkpoint.config())?;
    let pixels = inputs.floats("pixel_values", 4)?;
    let mut net = Net::new(&mut inputs.rec, adapters);
    let prefix = checkpoint.component().name();
    let value = net.within(prefix, |net| image_encoder(net, &config, pixels))?;
    Ok(vec![Output::new("image_embeddings", value)])
}

/// Image embeddings and prompts to `pred_masks` and `iou_scores`.
pub(super) fn record_decoder(
    inputs: &mut Inputs<'_>,
    adapters: &Adapters,
    checkpoint: &Checkpoint,
) -> Result<Vec<Output>> {
    let config = DecoderConfig::from_json(checkpoint.config())?;
    let image = inputs.floats("image_embeddings", 4)?;
    let [n, h, w, _] = inputs.rec.spec(image).dims[..] else {
        unreachable!("forward: a picture has four axes")
    };
    let picture = picture(inputs, &config, [h, w])?;
    let prompts = prompts(inputs, n)?;
    let masks =
        optional(inputs, "input_masks")?.map(|_| inputs.floats("input_masks", 4)).transpose()?;
    let multimask = multimask(inputs)?;
    let matrix = matrix(checkpoint, &config)?;
    let tokens = prompts.tokens(&matrix, config.masks, picture)?;
    let (p, width) = (prompts.per_picture, config.width);
    let count = tokens.ids.len();
    let ids = inputs.ids("token_ids", &[1, count], tokens.ids);
    let positions = Tensor { dims: vec![count, width], data: tokens.positions };
    let positions = inputs.feed("token_positions", positions, false);
    let cells = grid_positions(&matrix, [h, w]);
    let cells = inputs.rec.table("cell_positions", &[h * w, width], cells);
    let given = Prompted { image, cells, ids, positions, prompts: p, masks, multimask };
    let mut net = Net::new(&mut inputs.rec, adapters);
    let prefix = checkpoint.component().name();
    let out = net.within(prefix, |net| mask_decoder(net, &config, &given))?;
    let output = |name, value: Value| Output { lead: Some(vec![n, p]), ..Output::new(name, value) };
    Ok(vec![output("pred_masks", out.masks), output("iou_scores", out.scores)])
}

/// Height and width of the padded picture of an embedding of `h x w`.
fn picture(inputs: &Inputs<'_>, config: &DecoderConfig, [h, w]: [usize; 2]) -> Result<[usize; 2]> {
    match config.sides {
        None => Ok([h * STRIDE, w * STRIDE]),
        Some([side, cells]) if [h, w] == [cells; 2] => Ok([side; 2]),
        Some([_, cells]) => {
            let entry = inputs.file.entry("image_embeddings")?;
            let want = format!("[N, {}, {cells}, {cells}]", config.width);
            Err(inputs.odd("image_embeddings", &entry.dims, &want))
        }
    }
}

/// The numbers of an input that may be left out.
fn optional(inputs: &mut Inputs<'_>, name: &'static str) -> Result<Option<Tensor>> {
    if !inputs.file.entries().contains_key(name) {
        return Ok(None);
    }
    inputs.read.push(name);
    Ok(Some(inputs.read(name)?.0))
}

fn prompts(inputs: &mut Inputs<'_>, n: usize) -> Result<Prompts> {
    let at = optional(inputs, "input_points")?;
    let labels = optional(inputs, "input_labels")?;
    let boxes = optional(inputs, "input_boxes")?;
    let mut per_picture = None;
    let points = match at {
        None if labels.is_some() => {
            return Err(bad(inputs, "input_labels without input_points", "both, or neither"));
        }
        None => None,
        Some(t) => {
            let [m, p, count, 2] = t.dims[..] else {
                return Err(inputs.odd("input_points", &t.dims, &format!("[{n}, P, K, 2]")));
            };
            if m != n || p == 0 || count == 0 {
                let want = format!("[{n}, P, K, 2] with P and K above 0");
                return Err(inputs.odd("input_points", &t.dims, &want));
            }
            per_picture = Some(p);
            let labels = point_labels(inputs, labels, [n, p, count])?;
            Some(Points { count, at: t.data, labels })
        }
    };
    let boxes = match boxes {
        None => None,
        Some(t) => {
            let fits = matches!(t.dims[..], [m, p, 4] if m == n && p > 0
                && per_picture.is_none_or(|q| p == q));
            if !fits {
                let p = per_picture.map_or("P".into(), |p| p.to_string());
                return Err(inputs.odd("input_boxes", &t.dims, &format!("[{n}, {p}, 4]")));
            }
            per_picture = Some(t.dims[1]);
            Some(t.data)
        }
    };
    Ok(Prompts { pictures: n, per_picture: per_picture.unwrap_or(1), points, boxes })
}

/// The labels as they are stored; 1 where there are none.
fn point_labels(inputs: &Inputs<'_>, given: Option<Tensor>, want: [usize; 3]) -> Result<Vec<i64>> {
    let Some(t) = given else { return Ok(vec![1; want.iter().product()]) };
    if t.dims != want {
        return Err(inputs.odd("input_labels", &t.dims, &format!("{want:?}")));
    }
    let whole = |x: &f32| (x.fract() == 0.0 && x.abs() < 1e6).then_some(*x as i64);
    let labels: Option<Vec<i64>> = t.data.iter().map(whole).collect();
    labels.ok_or_else(|| bad(inputs, "input_labels that are no whole numbers", "1, 0 or -1"))
}

/// Whether the masks of the ambiguous case are asked for: unless `multimask_output` is 0.
fn multimask(inputs: &mut Inputs<'_>) -> Result<bool> {
    match optional(inputs, "multimask_output")? {
        None => Ok(true),
        Some(t) => match t.data[..] {
            [0.0] => Ok(false),
            [1.0] => Ok(true),
            _ => Err(bad(inputs, &format!("multimask_output {:?}", t.data), "one number, 0 or 1")),
        },
    }
}

/// The position matrix `[2, C / 2]`.
fn matrix(checkpoint: &Checkpoint, config: &DecoderConfig) -> Result<Vec<f32>> {
    let t = checkpoint.tensor(POSITIONS)?;
    if t.dims == [2, config.width / 2] {
        return Ok(t.data);
    }
    let line = format!("{POSITIONS}: found {:?}, expected [2, {}]", t.dims, config.width / 2);
    Err(Error::Weights {
        source_name: checkpoint.stored_name(POSITIONS).unwrap_or(POSITIONS).into(),
        missing: vec![],
        unknown: vec![],
        misshaped: vec![line],
    })
}

fn bad(inputs: &Inputs<'_>, found: &str, expected: &str) -> Error {
    Error::Data {
        at: inputs.file.path().display().to_string(),
        found: found.into(),
        expected: expected.into(),
        fix: "change the input file".into(),
    }
}
