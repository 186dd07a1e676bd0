//! From a text to pictures: text program, start, denoising loop, decoding.

use super::{Sampler, Schedule, Settings, Start};
use crate::{
    device::{Cuda, Device, Memory},
    error::{Error, Result},
    kernels::scheduler::{Buffers, DeviceSampler, Output, Rule},
    lora::Adapters,
    models::{
        base::{Base, Encoded},
        checkpoint::Component,
        noise::Spacing,
        unet::{UnetInputs, unet},
    },
    nn::Net,
    plan::{Layout, Program, Recorder, WeightSource},
    tensor::{DType, Spec, image::Picture},
};
use std::sync::Arc;

/// What to sample.
#[derive(Clone, Debug)]
pub struct Request {
    /// The prompt.
    pub prompt: String,
    /// What to guide away from; `None` is the base's own choice (zeros or the empty text).
    pub negative: Option<String>,
    /// Picture height, pixels; a multiple of the latent factor.
    pub height: usize,
    /// Picture width, pixels.
    pub width: usize,
    /// Update rule.
    pub sampler: Sampler,
    /// Placement of the timesteps; `None` is the base's own.
    pub spacing: Option<Spacing>,
    /// Model calls.
    pub steps: usize,
    /// Guidance scale; 1 or less samples without guidance.
    pub guidance: f32,
}

/// A base with adapters, ready to sample pictures of one size.
pub struct Pipeline<'a> {
    base: &'a Base,
    device: Device,
    adapters: &'a Adapters,
    weights: &'a dyn WeightSource,
    denoiser: Option<Denoiser>,
    decoder: Option<(Program, [usize; 2])>,
}

/// The planned U-Net for a batch of pictures.
struct Denoiser {
    program: Program,
    pictures: usize,
    guided: bool,
    latent: [usize; 2],
    sampler: Option<OnDevice>,
}

/// What a sampler on a GPU is made for: rule and prediction, steps, numbers of all latents.
type LoopKey = ((Rule, Output), usize, usize);

/// The sampler's side of a loop on a GPU.
struct OnDevice {
    key: LoopKey,
    sampler: DeviceSampler,
    latent: Memory,
    buffers: Buffers,
}

impl OnDevice {
    fn new(cuda: &Arc<Cuda>, program: &Program, key: LoopKey, guided: bool) -> Result<Self> {
        let (rule, steps, len) = key;
        let at = |name: &str| Ok::<_, Error>(program.address(name)?.unwrap_or(0));
        let latent = cuda.alloc(len * size_of::<f32>())?;
        let timesteps = program.plan().input_len("timestep");
        let buffers = Buffers {
            latent: latent.address(),
            len,
            output: at("out")?,
            sample: at("sample")?,
            dtype: DType::F32,
            copies: if guided { 2 } else { 1 },
            timestep: at("timestep")?,
            timesteps,
        };
        let sampler = DeviceSampler::new(cuda, rule, steps, len)?;
        Ok(Self { key, sampler, latent, buffers })
    }
}

impl<'a> Pipeline<'a> {
    /// A pipeline on `device`; programs are planned when first needed.
    pub fn new(
        base: &'a Base,
        device: Device,
        adapters: &'a Adapters,
        weights: &'a dyn WeightSource,
    ) -> Self {
        Self { base, device, adapters, weights, denoiser: None, decoder: None }
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
        start: Start,
        progress: &mut dyn FnMut(),
    ) -> Result<Vec<Vec<f32>>> {
        let latent = self.latent(request.height, request.width)?;
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
        let (positive, negative) = self.texts(request)?;
        self.prepare(count, guided, latent, self.base.tokens())?;
        let Some(d) = self.denoiser.as_mut() else { return Ok(vec![]) };
        d.condition(self.base, request, guided.then_some(&negative), &positive)?;
        if let Device::Cuda(cuda) = &self.device {
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

    fn texts(&self, request: &Request) -> Result<(Encoded, Encoded)> {
        let negative = request.negative.as_deref();
        let source = Joined { first: self.weights, second: &self.base.weights };
        let mut program = self.base.text_program(&self.device, self.adapters, 1, &source)?;
        let positive = self.base.encode(&mut program, &[&request.prompt])?;
        let mut other = self.base.encode(&mut program, &[negative.unwrap_or("")])?;
        if negative.is_none() && self.base.zero_negative {
            other.context.fill(0.0);
            other.pooled.fill(0.0);
        }
        Ok((positive, other))
    }

    fn prepare(
        &mut self,
        pictures: usize,
        guided: bool,
        latent: [usize; 2],
        tokens: usize,
    ) -> Result<()> {
        let fits = |d: &Denoiser| (d.pictures, d.guided, d.latent) == (pictures, guided, latent);
        if self.denoiser.as_ref().is_some_and(fits) {
            return Ok(());
        }
        self.denoiser = None; // its memory first
        let config = &self.base.unet;
        let n = if guided { 2 * pictures } else { pictures };
        let mut rec = Recorder::in_dtype(self.base.dtype);
        let dims = [n, latent[0], latent[1], config.in_channels];
        let sample = rec.input("sample", Spec::f32(&dims));
        let timestep = rec.input("timestep", Spec::f32(&[n]));
        let width = config.context_dim().unwrap_or(1);
        let context = rec.input("context", Spec::f32(&[n, tokens, width]));
        let text_embeds =
            config.text_time.map(|t| rec.input("pooled", Spec::f32(&[n, t.pooled_dim()])));
        let time_ids = config.text_time.map(|_| rec.input("time_ids", Spec::f32(&[n, 6])));
        let inputs = UnetInputs { sample, timestep, context, text_embeds, time_ids };
        let mut net = Net::new(&mut rec, self.adapters);
        let out = net.within("unet", |net| unet(net, config, &inputs))?;
        self.base.check(Component::Unet, &rec.params())?;
        let source = Joined { first: self.weights, second: &self.base.weights };
        let program = rec.plan_inference(out)?.load(self.device.clone(), &source)?;
        self.denoiser = Some(Denoiser { program, pictures, guided, latent, sampler: None });
        Ok(())
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
            let program = plan.load(self.device.clone(), &self.base.weights)?;
            self.decoder = Some((program, [h, w]));
        }
        let Some((program, _)) = self.decoder.as_mut() else { return Ok(Picture::default()) };
        let scaled: Vec<f32> = latent.iter().map(|x| x / config.scaling_factor).collect();
        program.set("latent", &scaled)?;
        program.forward()?;
        let pixels = program.get("sample")?;
        let byte = |v: &f32| ((v.clamp(-1.0, 1.0) + 1.0) * 127.5).round() as u8;
        let data = pixels.iter().map(byte).collect();
        Picture::new(width, height, 3, data).ok_or_else(|| Error::Shape {
            at: "vae decoder".into(),
            what: "picture",
            got: vec![pixels.len()],
            want: format!("{height} x {width} x 3"),
        })
    }
}

impl Denoiser {
    fn condition(
        &mut self,
        base: &Base,
        request: &Request,
        negative: Option<&Encoded>,
        positive: &Encoded,
    ) -> Result<()> {
        let rows = |of: fn(&Encoded) -> &Vec<f32>| {
            let away = negative.map(|n| of(n).repeat(self.pictures)).unwrap_or_default();
            [away, of(positive).repeat(self.pictures)].concat()
        };
        let (context, pooled) = (rows(|c| &c.context), rows(|c| &c.pooled));
        self.program.set("context", &context)?;
        if base.unet.text_time.is_some() {
            self.program.set("pooled", &pooled)?;
            let n = if self.guided { 2 * self.pictures } else { self.pictures };
            let ids = Base::time_ids(request.height, request.width);
            self.program.set("time_ids", &ids.repeat(n))?;
        }
        Ok(())
    }

    /// The whole loop on a GPU: one graph a step, replayed; the host only launches and reads the last latent.
    fn loop_on_device(
        &mut self,
        cuda: &Arc<Cuda>,
        schedule: &Schedule,
        guidance: f32,
        state: &[f32],
        progress: &mut dyn FnMut(),
    ) -> Result<Vec<f32>> {
        let steps = schedule.timesteps().len();
        let key = (schedule.rule(), steps, state.len());
        if self.sampler.as_ref().is_none_or(|s| s.key != key) {
            self.program.forget_graphs();
            self.sampler = Some(OnDevice::new(cuda, &self.program, key, self.guided)?);
        }
        let Some(s) = &self.sampler else { return Ok(vec![]) };
        cuda.upload(s.latent.address(), bytemuck::cast_slice(state))?;
        s.sampler.set(&schedule.rows(), guidance)?;
        s.sampler.begin(&s.buffers)?;
        for _ in 0..steps {
            self.program.forward_then(&|| s.sampler.step(&s.buffers))?;
            progress();
        }
        let mut last = vec![0.0f32; state.len()];
        cuda.download(s.latent.address(), bytemuck::cast_slice_mut(&mut last))?;
        Ok(last)
    }

    /// The guided prediction for `input`, `[pictures, h, w, C]`.
    fn predict(&mut self, input: &[f32], timestep: f32, guidance: f32) -> Result<Vec<f32>> {
        let copies = if self.guided { 2 } else { 1 };
        self.program.set("sample", &input.repeat(copies))?;
        self.program.set("timestep", &vec![timestep; copies * self.pictures])?;
        self.program.forward()?;
        let mut out = self.program.get("out")?;
        if self.guided {
            let (away, toward) = out.split_at_mut(input.len());
            for (a, t) in away.iter_mut().zip(toward) {
                *a += guidance * (*t - *a);
            }
            out.truncate(input.len());
        }
        Ok(out)
    }
}

/// Encodes pictures of one size to the mean of their posterior, scaled: `z0 [h, w, C]` each.
///
/// # Errors
/// Those of the program; [`Error::Shape`] for pictures of different sizes.
pub fn encode_pictures(
    base: &Base,
    device: &Device,
    pictures: &[Picture],
) -> Result<Vec<Vec<f32>>> {
    let Some(first) = pictures.first() else { return Ok(vec![]) };
    let (scale, c) = (base.vae.scaling_factor, base.vae.latent_channels);
    let plan = base.vae_encoder(1, [first.height, first.width])?;
    base.check(Component::Vae, &plan.params())?;
    let mut program = plan.load(device.clone(), &base.weights)?;
    let one = |p: &Picture| {
        let values: Vec<f32> = p.rgb().data.iter().map(|b| f32::from(*b) / 127.5 - 1.0).collect();
        program.set("sample", &values)?;
        program.forward()?;
        let moments = program.get("moments")?;
        let mean = moments.chunks_exact(2 * c).flat_map(|m| &m[..c]);
        Ok(mean.map(|v| v * scale).collect())
    };
    pictures.iter().map(one).collect()
}

/// Two sources of weights, the first asked first.
struct Joined<'a> {
    first: &'a dyn WeightSource,
    second: &'a dyn WeightSource,
}

impl WeightSource for Joined<'_> {
    fn get(&self, name: &str, dims: &[usize], layout: Layout) -> Result<Option<Arc<Vec<f32>>>> {
        match self.first.get(name, dims, layout)? {
            Some(w) => Ok(Some(w)),
            None => self.second.get(name, dims, layout),
        }
    }
}
