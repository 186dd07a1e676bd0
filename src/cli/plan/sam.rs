//! The plans of Segment Anything's components.

use crate::{
    error::Result,
    lora::Adapters,
    models::{
        architecture::component_json,
        checkpoint::Component,
        sam::{DecoderConfig, EncoderConfig, Prompted, STRIDE, image_encoder, mask_decoder},
    },
    nn::Net,
    plan::{Pass, Plan, PlanOptions, Recorder},
    tensor::{Spec, Types},
};

/// The components, as they are named on the command line.
pub(super) const COMPONENTS: [&str; 2] = ["sam-image-encoder", "sam-mask-decoder"];
/// What is planned where no model is named.
pub(super) const DEFAULT: &str = "sam-vit-h";
/// Side of an image embedding where nothing says otherwise.
const SIDE: usize = 64;
/// Tokens of a box.
const CORNERS: usize = 2;

/// One pass of `component` of `model` for `n` pictures; the decoder gets a box in each.
///
/// # Errors
/// Those of the configuration and the recording.
pub(super) fn plan(
    (component, model): (&str, &str),
    n: usize,
    cells: Option<[usize; 2]>,
    types: Types,
) -> Result<Plan> {
    let (mut rec, none) = (Recorder::in_dtype(types), Adapters::new());
    let outputs = if component == COMPONENTS[0] {
        let config = EncoderConfig::from_json(&component_json(model, Component::SamImageEncoder)?)?;
        let any = cells.unwrap_or([SIDE; 2]).map(|s| s * STRIDE);
        let [h, w] = config.picture().unwrap_or(any);
        let pixels = rec.input("pixel_values", Spec::f32(&[n, h, w, config.channels()]));
        let mut net = Net::new(&mut rec, &none);
        let prefix = Component::SamImageEncoder.name();
        let out = net.within(prefix, |net| image_encoder(net, &config, pixels))?;
        vec![("image_embeddings", out)]
    } else {
        let config = DecoderConfig::from_json(&component_json(model, Component::SamMaskDecoder)?)?;
        let any = cells.unwrap_or([SIDE; 2]);
        let ([h, w], c) = (config.sides.map_or(any, |[_, side]| [side; 2]), config.width);
        let tokens = n * (1 + config.masks + CORNERS);
        let given = Prompted {
            image: rec.input("image_embeddings", Spec::f32(&[n, h, w, c])),
            cells: rec.input("cell_positions", Spec::f32(&[h * w, c])),
            ids: rec.input("token_ids", Spec::i32(&[1, tokens])),
            positions: rec.input("token_positions", Spec::f32(&[tokens, c])),
            prompts: 1,
            masks: None,
            multimask: false,
        };
        let mut net = Net::new(&mut rec, &none);
        let prefix = Component::SamMaskDecoder.name();
        let out = net.within(prefix, |net| mask_decoder(net, &config, &given))?;
        vec![("pred_masks", out.masks), ("iou_scores", out.scores)]
    };
    rec.plan(&outputs, PlanOptions { pass: Pass::Inference, ..PlanOptions::default() })
}
