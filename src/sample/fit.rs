//! Whether the pictures of a run fit into memory, and which settings near them would.

use super::{Size, denoiser};
use crate::{
    device::Device,
    error::{Error, Result},
    lora::Adapters,
    models::base::Base,
    plan::Plan,
    tensor::{DType, Types},
};

/// Which pictures are asked about: what stays in memory together, and how their settings are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// `generate`: every program goes before the next is loaded.
    Generate,
    /// The prior set: U-Net and decoder stay, because a picture is looked at before the next is made.
    Prior,
}

/// Whether a training run changes the U-Net's own weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unet {
    /// Adapters or other parts are trained.
    Frozen,
    /// Its weights are trained.
    Trained,
}

/// Bytes that each program of a run of pictures needs: weights and arena.
///
/// The VAE encoder of an initialization is not counted: it needs less than the decoder, and is gone before.
#[derive(Clone, Debug)]
pub struct Forecast {
    text: u64,
    denoiser_weights: u64,
    denoiser_arena: u64,
    decoder: u64,
    largest: String,
}

impl Forecast {
    /// Plans everything a run of `size` needs; nothing is allocated.
    ///
    /// # Errors
    /// Those of the recording.
    pub fn new(base: &Base, adapters: &Adapters, size: &Size) -> Result<Self> {
        let bytes = |plan: &Plan| {
            let s = plan.summary();
            (s.weight_bytes as u64, s.arena_bytes as u64)
        };
        let sum = |(weights, arena): (u64, u64)| weights + arena;
        let denoiser = denoiser::plan(base, adapters, size)?;
        let decoder = base.vae_decoder(1, size.latent)?;
        let (denoiser_weights, denoiser_arena) = bytes(&denoiser);
        let decoder_bytes = sum(bytes(&decoder));
        let decodes = decoder_bytes > denoiser_weights + denoiser_arena;
        let largest = if decodes { &decoder } else { &denoiser }.largest(5);
        let text = sum(bytes(&base.text_plan(adapters, 1)?));
        Ok(Self { text, denoiser_weights, denoiser_arena, decoder: decoder_bytes, largest })
    }

    /// The most that a run needs at a time.
    pub fn bytes(&self, purpose: Purpose) -> u64 {
        let denoiser = self.denoiser_weights + self.denoiser_arena;
        match purpose {
            Purpose::Generate => self.text.max(denoiser).max(self.decoder),
            Purpose::Prior => self.text.max(denoiser + self.decoder),
        }
    }

    /// The most that sample pictures need beside a training step on `device`. On the CPU both read the same frozen
    /// U-Net, and a trained one is read out and brought to runtime layout; a GPU's memory holds it once for each
    /// program.
    pub fn beside_training(&self, device: &Device, unet: Unet) -> u64 {
        let weights = match (device, unet) {
            (Device::Cpu, Unet::Frozen) => 0,
            (Device::Cpu, Unet::Trained) => 2 * self.denoiser_weights,
            (Device::Cuda(_), _) => self.denoiser_weights,
        };
        self.text.max(weights + self.denoiser_arena).max(self.decoder)
    }
}

/// Refuses pictures that do not fit, before anything is allocated.
///
/// # Errors
/// [`Error::OutOfMemory`] that names the nearest settings that fit; those of the recording.
pub fn check(
    (base, device): (&Base, &Device),
    adapters: &Adapters,
    size: &Size,
    purpose: Purpose,
) -> Result<()> {
    let forecast = Forecast::new(base, adapters, size)?;
    let need = forecast.bytes(purpose);
    let Some(have) = device.free_bytes()?.filter(|have| need > *have) else { return Ok(()) };
    let fits = |choice: &Choice| {
        let narrow;
        let base = match choice.types == base.types {
            true => base,
            false => {
                narrow = base.clone().stored_as(choice.types);
                &narrow
            }
        };
        Ok(Forecast::new(base, adapters, &choice.size)?.bytes(purpose) <= have)
    };
    let words = nearest(&choices(size, base.types, (purpose, base.vae.factor())), fits)?;
    let fix = match words.is_empty() {
        true => "no setting of this base fits; use a smaller base".into(),
        false => format!("this would fit: {}", words.join(", or ")),
    };
    let largest = forecast.largest;
    Err(Error::OutOfMemory { need_bytes: need, have_bytes: have, largest, fix })
}

/// A setting near the one that was asked for.
#[derive(Clone, Debug)]
struct Choice {
    words: String,
    size: Size,
    types: Types,
}

/// The first choice of every kind that fits; of the last kind, everything together, only where no other does.
fn nearest(kinds: &[Vec<Choice>], fits: impl Fn(&Choice) -> Result<bool>) -> Result<Vec<String>> {
    let mut found = vec![];
    for (i, kind) in kinds.iter().enumerate() {
        if i + 1 == kinds.len() && !found.is_empty() {
            break;
        }
        for choice in kind {
            if fits(choice)? {
                found.push(choice.words.clone());
                break;
            }
        }
    }
    Ok(found)
}

/// Choices of every kind, the nearest first: element type, pictures in a pass, size, all together.
fn choices(size: &Size, types: Types, (purpose, factor): (Purpose, usize)) -> Vec<Vec<Choice>> {
    let own = |words: String, size: Size| Choice { words, size, types };
    let narrow = |choice: Choice| Choice {
        words: format!("--dtype bf16 {}", choice.words).trim_end().into(),
        types: types.with(DType::Bf16),
        ..choice
    };
    let can_narrow = types.products() == DType::F32;
    let halves = std::iter::successors(Some(size.pictures / 2), |n| Some(n / 2));
    let batches: Vec<Choice> = (halves.take_while(|n| *n > 0))
        .map(|n| own(format!("--batch {n}"), Size { pictures: n, ..*size }))
        .collect();
    let cut = |parts: usize| Size {
        latent: size.latent.map(|n| (n * parts / 4 / 8 * 8).max(8)),
        ..*size
    };
    let name = |s: &Size| match purpose {
        Purpose::Generate => {
            format!("--height {} --width {}", s.latent[0] * factor, s.latent[1] * factor)
        }
        Purpose::Prior => format!("train.resolution = {}", s.latent[0] * factor),
    };
    let smaller = |s: &Size| s.latent != size.latent;
    let sizes: Vec<Choice> =
        [3, 2, 1].map(cut).into_iter().filter(smaller).map(|s| own(name(&s), s)).collect();
    let one = batches.last().cloned();
    let mut together: Vec<Choice> = match &one {
        None => vec![],
        Some(one) => (sizes.iter())
            .map(|s| {
                let size = Size { pictures: one.size.pictures, ..s.size };
                own(format!("{} {}", one.words, s.words), size)
            })
            .collect(),
    };
    if can_narrow {
        let all: Vec<Choice> =
            one.into_iter().chain(sizes.clone()).chain(together.clone()).collect();
        together.extend(all.into_iter().map(narrow));
    }
    let dtypes = can_narrow.then(|| narrow(own(String::new(), *size)));
    vec![dtypes.into_iter().collect(), batches, sizes, together]
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { pictures: 6, guided: true, latent: [128, 96] };

    #[test]
    fn the_first_fitting_choice_of_every_kind_is_named() {
        let named = |fits: &dyn Fn(&Choice) -> bool, dtype| {
            let all = choices(&SIZE, Types::cpu(dtype), (Purpose::Generate, 8));
            nearest(&all, |c| Ok(fits(c))).unwrap()
        };
        let small = |c: &Choice| c.size.pictures * c.size.latent[0] <= 3 * 128;
        assert_eq!(named(&small, DType::Bf16), ["--batch 3", "--height 512 --width 384"]);
        let both = |c: &Choice| c.size.pictures == 1 && c.size.latent[0] < 128;
        assert_eq!(named(&both, DType::Bf16), ["--batch 1 --height 768 --width 576"]);
        let half = |c: &Choice| c.types.products() == DType::Bf16;
        assert_eq!(named(&half, DType::F32), ["--dtype bf16"]);
        assert_eq!(
            named(&half, DType::Bf16).len(),
            2,
            "it is bf16 already: the nearest of every other kind"
        );
        let all = |c: &Choice| half(c) && both(c);
        assert_eq!(named(&all, DType::F32), ["--dtype bf16 --batch 1 --height 768 --width 576"]);
    }

    #[test]
    fn the_forecast_is_what_the_plans_need_and_an_encoder_needs_no_more() {
        let base = Base::open("nano").unwrap();
        let forecast = Forecast::new(&base, &Adapters::new(), &SIZE).unwrap();
        let bytes = |plan: Plan| {
            let s = plan.summary();
            (s.weight_bytes + s.arena_bytes) as u64
        };
        let decoder = bytes(base.vae_decoder(1, SIZE.latent).unwrap());
        let denoiser = bytes(denoiser::plan(&base, &Adapters::new(), &SIZE).unwrap());
        assert_eq!(forecast.bytes(Purpose::Generate), denoiser.max(decoder));
        assert_eq!(forecast.bytes(Purpose::Prior), denoiser + decoder);
        let picture = SIZE.latent.map(|n| n * base.vae.factor());
        assert!(bytes(base.vae_encoder(1, picture).unwrap()) <= decoder);
        let beside = |unet| forecast.beside_training(&Device::Cpu, unet);
        let weights = forecast.denoiser_weights;
        assert_eq!(beside(Unet::Frozen), (denoiser - weights).max(decoder));
        assert_eq!(beside(Unet::Trained), (denoiser + weights).max(decoder));
    }
}
