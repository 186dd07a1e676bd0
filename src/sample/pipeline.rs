//! From a text to pictures: text program, start, denoising loop, decoding.

use super::{Request, Schedule, Settings, Size, StartLatents, Steering, denoiser::Denoiser};
use crate::{
    device::Device,
    error::{Error, Result},
    lora::Adapters,
    models::{
        Texts,
        base::{Base, Encoded},
        checkpoint::Component,
    },
    plan::{Program, StoredBytes, WeightLayout, WeightSource},
    tensor::{DType, Floats, image::Picture},
};
use std::collections::HashMap;

/// A base with adapters, ready to sample pictures of one size.
pub struct Pipeline<'a> {
    base: &'a Base,
    device: Device,
    adapters: &'a Adapters,
    weights: &'a dyn WeightSource,
    texts: Texts,
    steering: Option<Steering>,
    fused: HashMap<String, Vec<f32>>,
    denoiser: Option<Denoiser>,
    decoder: Option<(Program, [usize; 2])>,
    loads: Loads,
}

/// How often a run loaded the weights of each program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loads {
    /// The text encoders.
    pub text: usize,
    /// The VAE encoder, of an initialization.
    pub encoder: usize,
    /// The U-Net.
    pub denoiser: usize,
    /// The VAE decoder.
    pub decoder: usize,
}

impl<'a> Pipeline<'a> {
    /// A pipeline on `device`; programs are planned and loaded when first needed, once, and kept until they are
    /// dropped: the text encoders after the prompts are encoded, the U-Net by [`Pipeline::drop_denoiser`].
    pub fn new(
        base: &'a Base,
        device: Device,
        adapters: &'a Adapters,
        weights: &'a dyn WeightSource,
    ) -> Self {
        Self {
            base,
            device,
            adapters,
            weights,
            texts: Texts::default(),
            steering: None,
            fused: HashMap::new(),
            denoiser: None,
            decoder: None,
            loads: Loads::default(),
        }
    }

    /// The same with prompts that a decoupled adapter turns into conditioning; what is guided away from stays as it is.
    ///
    /// # Errors
    /// As [`Steering::check`].
    pub fn steered(self, steering: Option<Steering>) -> Result<Self> {
        let width = self.base.unet.context_dim().unwrap_or(0);
        steering.iter().try_for_each(|s| s.check(width))?;
        Ok(Self { steering, ..self })
    }

    /// Latent height and width of a picture.
    ///
    /// # Errors
    /// [`Error::Config`] when a side is no positive multiple of the latent factor.
    pub fn latent(&self, height: usize, width: usize) -> Result<[usize; 2]> {
        let f = self.base.vae.factor();
        if height == 0 || width == 0 || !height.is_multiple_of(f) || !width.is_multiple_of(f) {
            return Err(Error::Config {
                key: "--height, --width".into(),
                found: format!("{height} x {width}"),
                expected: format!("multiples of {f}"),
                fix: format!("{0} x {0} suits this base", self.base.side()),
            });
        }
        Ok([height / f, width / f])
    }

    /// Denoises from `start`; the result is one scaled latent `[h, w, C]` per picture. `progress` is
    /// called after every step.
    ///
    /// # Errors
    /// Those of the programs and of the request.
    pub fn denoise(
        &mut self,
        request: &Request,
        start: StartLatents,
        progress: &mut dyn FnMut(),
    ) -> Result<Vec<Vec<f32>>> {
        let latent = self.latent(request.height, request.width)?;
        if self.fills() {
            return Err(Error::Config {
                key: "--base".into(),
                found: "a U-Net that takes a mask and a photo too".into(),
                expected: "a base that paints from a text".into(),
                fix: "give this one to `selvedge inpaint`".into(),
            });
        }
        let settings = Settings::read(&self.base.scheduler, request.sampler)?;
        let mut schedule = Schedule::new(&settings.spaced(request.spacing), request.steps)?;
        let pictures = start.pictures();
        let len = latent[0] * latent[1] * self.base.unet.in_channels;
        if let Some(p) = pictures.iter().find(|p| p.len() != len) {
            return Err(Error::Shape {
                at: "start latents".into(),
                what: "latent",
                got: vec![p.len()],
                want: format!("{len} elements"),
            });
        }
        let (count, guided) = (pictures.len(), request.guidance > 1.0);
        let state = start.state(&schedule);
        let device = self.device.clone();
        let d = self.prepare(request, Size { pictures: count, guided, latent })?;
        if let Device::Cuda(cuda) = &device {
            let state = d.loop_on_device(cuda, &schedule, request.guidance, &state, progress)?;
            return Ok(state.chunks_exact(len.max(1)).map(<[f32]>::to_vec).collect());
        }
        let state = schedule.run(state, &mut |input, timestep| {
            let output = d.predict(input, timestep, request.guidance);
            progress();
            output
        })?;
        Ok(state.chunks_exact(len.max(1)).map(<[f32]>::to_vec).collect())
    }

    /// The U-Net for `size`, with the request's texts in it.
    pub(super) fn prepare(&mut self, request: &Request, size: Size) -> Result<&mut Denoiser> {
        let (positive, negative) = self.conditioning(request)?;
        let base = self.base;
        let d = self.denoiser(size)?;
        d.condition(base, request, size.guided.then_some(&negative), &positive)?;
        Ok(d)
    }

    /// The prediction of the U-Net that [`Pipeline::prepare`] made ready.
    pub(super) fn predict(
        &mut self,
        input: &[f32],
        timestep: f32,
        guidance: f32,
    ) -> Result<Vec<f32>> {
        match &mut self.denoiser {
            Some(d) => d.predict(input, timestep, guidance),
            None => Err(Error::Plan { at: "fill".into(), problem: "no U-Net is ready".into() }),
        }
    }

    /// The base.
    pub fn base(&self) -> &'a Base {
        self.base
    }

    /// Encodes the prompts of `requests`, each text once; the text encoders are loaded at most once for all of
    /// them, and their weights are given back before anything else is loaded.
    ///
    /// # Errors
    /// Those of the text encoders.
    pub fn encode_prompts(&mut self, requests: &[&Request]) -> Result<()> {
        self.encode_texts(&requests.iter().flat_map(|r| r.texts()).collect::<Vec<_>>())
    }

    /// As [`Pipeline::encode_prompts`], of any texts.
    ///
    /// # Errors
    /// Those of the text encoders.
    pub fn encode_texts(&mut self, texts: &[&str]) -> Result<()> {
        let source = Joined { first: self.weights, second: &self.base.weights };
        self.texts.encode((self.base, &self.device), (self.adapters, &source), texts)
    }

    /// The prompt and what to guide away from.
    fn conditioning(&mut self, request: &Request) -> Result<(Encoded, Encoded)> {
        self.encode_prompts(&[request])?;
        let get = |text: &str| self.texts.get(text).cloned().unwrap_or_default();
        let mut other = get(request.texts()[1]);
        if request.negative.is_none() && self.base.zero_negative {
            other.context.fill(0.0);
            other.pooled.fill(0.0);
        }
        let mut own = get(&request.prompt);
        if let Some(steering) = &self.steering {
            if !self.fused.contains_key(&request.prompt) {
                let (device, types) = (&self.device, self.base.types);
                let fused = steering.fuse(device, types, self.weights, &own.context)?;
                self.fused.insert(request.prompt.clone(), fused);
            }
            own.context = self.fused.get(&request.prompt).cloned().unwrap_or_default();
        }
        Ok((own, other))
    }

    /// The U-Net for `size`: loaded once, planned anew over the same weights for another size.
    fn denoiser(&mut self, size: Size) -> Result<&mut Denoiser> {
        let ready = match self.denoiser.take() {
            Some(d) if d.size() == size => d,
            Some(d) => d.resized(self.base, self.adapters, size)?,
            None => {
                let source = Joined { first: self.weights, second: &self.base.weights };
                self.loads.denoiser += 1;
                Denoiser::load(self.base, &self.device, self.adapters, &source, size)?
            }
        };
        Ok(self.denoiser.insert(ready))
    }

    /// Gives the U-Net's memory back, after the last latent and before the pictures are decoded.
    pub fn drop_denoiser(&mut self) {
        self.denoiser = None;
    }

    /// Takes texts that are encoded already, with the same adapters on the text encoders.
    pub fn with_texts(self, texts: Texts) -> Self {
        Self { texts, ..self }
    }

    /// The encoded texts, for another pipeline.
    pub fn into_texts(self) -> Texts {
        self.texts
    }

    /// How often each program was loaded.
    pub fn loads(&self) -> Loads {
        Loads { text: self.texts.loads, ..self.loads }
    }

    /// Decodes one scaled latent `[h, w, C]`.
    ///
    /// # Errors
    /// Those of the program.
    pub fn decode(&mut self, latent: &[f32], height: usize, width: usize) -> Result<Picture> {
        let [h, w] = self.latent(height, width)?;
        let config = &self.base.vae;
        if self.decoder.as_ref().is_none_or(|(_, size)| *size != [h, w]) {
            let plan = self.base.vae_decoder(1, [h, w])?;
            self.base.check(Component::Vae, &plan.params())?;
            let program = match self.decoder.take() {
                Some((program, _)) => program.replan(plan)?,
                None => {
                    self.loads.decoder += 1;
                    plan.load(self.device.clone(), &self.base.weights)?
                }
            };
            self.decoder = Some((program, [h, w]));
        }
        let Some((program, _)) = self.decoder.as_mut() else { return Ok(Picture::default()) };
        let scaled: Vec<f32> = latent.iter().map(|x| x / config.scaling_factor).collect();
        program.set("latent", &scaled)?;
        program.forward()?;
        let pixels = program.get("sample")?;
        Picture::from_signed(width, height, 3, &pixels).ok_or_else(|| Error::Shape {
            at: "vae decoder".into(),
            what: "picture",
            got: vec![pixels.len()],
            want: format!("{height} x {width} x 3"),
        })
    }
}

/// Two sources of weights, the first asked first.
struct Joined<'a> {
    first: &'a dyn WeightSource,
    second: &'a dyn WeightSource,
}

impl WeightSource for Joined<'_> {
    fn get(&self, name: &str, dims: &[usize], layout: WeightLayout) -> Result<Option<Floats>> {
        match self.first.get(name, dims, layout)? {
            Some(w) => Ok(Some(w)),
            None => self.second.get(name, dims, layout),
        }
    }

    fn stored(
        &self,
        name: &str,
        dims: &[usize],
        layout: WeightLayout,
        dtype: DType,
    ) -> Result<Option<StoredBytes>> {
        match self.first.stored(name, dims, layout, dtype)? {
            Some(bytes) => Ok(Some(bytes)),
            None if self.first.get(name, dims, layout)?.is_some() => Ok(None),
            None => self.second.stored(name, dims, layout, dtype),
        }
    }

    fn halves(
        &self,
        name: &str,
        dims: &[usize],
        layout: WeightLayout,
        dtype: DType,
    ) -> Result<Option<StoredBytes>> {
        match self.first.halves(name, dims, layout, dtype)? {
            Some(bytes) => Ok(Some(bytes)),
            None => self.second.halves(name, dims, layout, dtype),
        }
    }
}
