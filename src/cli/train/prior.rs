//! The prior set of a training run: class pictures of the frozen base, made before the first step.

use super::samples;
use crate::{
    cli::{common::note, segment::Cutter},
    data::{TrainConfig, matte, prior},
    device::Device,
    error::{Error, Result},
    lora::{Adapters, Loras},
    models::{Texts, base::Base},
    sample::{
        Pipeline, Request, Sampler, StartLatents,
        fit::{self, Purpose},
    },
    segment::words::Rule,
    tensor::image::Picture,
};
use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

/// A prior picture: Euler, whatever the samples are made with (methods.md §1.3).
fn request(config: &TrainConfig, class: &str) -> Request {
    Request {
        prompt: prior::prompt(class),
        negative: Some(prior::NEGATIVE.into()),
        height: config.train.resolution,
        width: config.train.resolution,
        sampler: Sampler::Euler,
        spacing: None,
        steps: config.method.prior_steps,
        guidance: config.method.prior_guidance as f32,
    }
}

fn one_picture(
    pipeline: &mut Pipeline<'_>,
    request: &Request,
    start: StartLatents,
) -> Result<Picture> {
    let latents = pipeline.denoise(request, start, &mut || {})?;
    let latent = latents.first().map(Vec::as_slice).unwrap_or_default();
    pipeline.decode(latent, request.height, request.width)
}

/// Makes the missing pictures of the prior set with the frozen base; several tries each until the subject stands
/// out. `prompts`, what the run will need later, are encoded along with the prior set's, into `texts`.
///
/// # Errors
/// [`prior::gave_up`] when none does; those of the pipeline.
pub fn make(
    config: &TrainConfig,
    (base, device): (&Base, &Device),
    (texts, prompts): (&mut Texts, &[String]),
    folder: &Path,
    stop: &AtomicBool,
) -> Result<()> {
    let wanted = prior::missing(config, folder);
    if wanted.is_empty() {
        return Ok(());
    }
    note(&format!("making {} pictures of the prior set in {}", wanted.len(), folder.display()));
    // before the memory is counted: what they take is not free any more
    let section = &config.segment;
    let mut cutter = match section.is_on() {
        true => Some(Cutter::open(section, device.clone())?),
        false => None,
    };
    let (none, nothing) = (Adapters::new(), Loras::default());
    fit::check((base, device), &none, &samples::size(config, base), Purpose::Prior)?;
    let mut pipeline =
        Pipeline::new(base, device.clone(), &none, &nothing).with_texts(std::mem::take(texts));
    let requests: Vec<Request> = wanted.iter().map(|one| request(config, &one.class)).collect();
    let own = requests.iter().flat_map(Request::texts);
    pipeline.encode_texts(&own.chain(prompts.iter().map(String::as_str)).collect::<Vec<_>>())?;
    let rule = Rule { threshold: section.prior_threshold, nms: section.nms, margin: 0.0 };
    for (one, request) in wanted.iter().zip(&requests) {
        let (mut made, mut why) = (false, None);
        for attempt in 0..prior::TRIES {
            if stop.load(Ordering::SeqCst) {
                return Err(Error::Interrupted {
                    done: format!("some of the prior set in {}", folder.display()),
                    fix: "run the same command with --resume".into(),
                });
            }
            let seed = config.train.seed ^ ((one.index as u64) << 8 | attempt) << 20;
            let start = samples::plain_start(&pipeline, request, (base, device), seed)?;
            let picture = one_picture(&mut pipeline, request, start)?;
            let mask = match &mut cutter {
                None => matte(&picture),
                Some(cutter) => match cutter.mask(&picture, &one.class, None, rule)? {
                    Ok(mask) => Some(mask),
                    Err(reason) => {
                        why = Some(reason);
                        None
                    }
                },
            };
            made = prior::store(one, &picture, mask)?;
            if made {
                break;
            }
        }
        if !made {
            return Err(prior::gave_up(one, why.as_deref()));
        }
    }
    *texts = pipeline.into_texts();
    Ok(())
}
