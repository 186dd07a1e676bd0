//! The planned U-Net of a denoising loop, and the sampler's side of it on a GPU.

use super::{Request, Schedule, Size};
use crate::{
    device::{Cuda, Device, Memory},
    error::{Error, Result},
    kernels::scheduler::{Buffers, DeviceSampler, Output, Rule},
    lora::Adapters,
    models::{
        base::{Base, Encoded},
        checkpoint::Component,
        unet::{UnetInputs, unet},
    },
    nn::Net,
    plan::{Plan, Program, Recorder, WeightSource},
    tensor::{DType, Spec},
};
use std::sync::Arc;

/// The planned U-Net for a batch of pictures.
pub(super) struct Denoiser {
    program: Program,
    size: Size,
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

/// A plan of the U-Net for `size`: inputs `sample`, `timestep`, `context` (for SDXL `pooled` and `time_ids`).
///
/// # Errors
/// Those of the recording.
pub(super) fn plan(base: &Base, adapters: &Adapters, size: &Size) -> Result<Plan> {
    let (config, n) = (&base.unet, size.rows());
    let [h, w] = size.latent;
    let mut rec = Recorder::in_dtype(base.types);
    let sample = rec.input("sample", Spec::f32(&[n, h, w, config.in_channels]));
    let timestep = rec.input("timestep", Spec::f32(&[n]));
    let width = config.context_dim().unwrap_or(1);
    let context = rec.input("context", Spec::f32(&[n, base.tokens(), width]));
    let text_embeds =
        config.text_time.map(|t| rec.input("pooled", Spec::f32(&[n, t.pooled_dim()])));
    let time_ids = config.text_time.map(|_| rec.input("time_ids", Spec::f32(&[n, 6])));
    // they stay for a whole loop: keys, values and what else follows from them are made once
    [Some(context), text_embeds, time_ids].into_iter().flatten().for_each(|v| rec.steady(v));
    let inputs = UnetInputs { sample, timestep, context, text_embeds, time_ids };
    let mut net = Net::new(&mut rec, adapters);
    let out = net.within("unet", |net| unet(net, config, &inputs))?;
    rec.plan_inference(out)
}

impl Denoiser {
    /// Plans and loads the U-Net for `size`.
    ///
    /// # Errors
    /// Those of the recording and of `weights`.
    pub fn load(
        base: &Base,
        device: &Device,
        adapters: &Adapters,
        weights: &dyn WeightSource,
        size: Size,
    ) -> Result<Self> {
        let plan = plan(base, adapters, &size)?;
        base.check(Component::Unet, &plan.params())?;
        Ok(Self { program: plan.load(device.clone(), weights)?, size, sampler: None })
    }

    /// The same for another size, with the weights that are there.
    ///
    /// # Errors
    /// Those of the recording and of the device.
    pub fn resized(self, base: &Base, adapters: &Adapters, size: Size) -> Result<Self> {
        drop(self.sampler);
        let program = self.program.replan(plan(base, adapters, &size)?)?;
        Ok(Self { program, size, sampler: None })
    }

    /// What it is planned for.
    pub fn size(&self) -> Size {
        self.size
    }

    pub fn condition(
        &mut self,
        base: &Base,
        request: &Request,
        negative: Option<&Encoded>,
        positive: &Encoded,
    ) -> Result<()> {
        let rows = |of: fn(&Encoded) -> &Vec<f32>| {
            let away = negative.map(|n| of(n).repeat(self.size.pictures)).unwrap_or_default();
            [away, of(positive).repeat(self.size.pictures)].concat()
        };
        let (context, pooled) = (rows(|c| &c.context), rows(|c| &c.pooled));
        self.program.set("context", &context)?;
        if base.unet.text_time.is_some() {
            self.program.set("pooled", &pooled)?;
            let n = self.size.rows();
            let ids = Base::time_ids(request.height, request.width);
            self.program.set("time_ids", &ids.repeat(n))?;
        }
        Ok(())
    }

    /// The whole loop on a GPU: one graph a step, replayed; the host only launches and reads the last latent.
    pub fn loop_on_device(
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
            self.sampler = Some(OnDevice::new(cuda, &self.program, key, self.size.guided)?);
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
    pub fn predict(&mut self, input: &[f32], timestep: f32, guidance: f32) -> Result<Vec<f32>> {
        let copies = if self.size.guided { 2 } else { 1 };
        self.program.set("sample", &input.repeat(copies))?;
        self.program.set("timestep", &vec![timestep; copies * self.size.pictures])?;
        self.program.forward()?;
        let mut out = self.program.get("out")?;
        if self.size.guided {
            // as many channels as it predicts, which are fewer than it takes where it was trained to fill
            let half = out.len() / 2;
            let (away, toward) = out.split_at_mut(half);
            for (a, t) in away.iter_mut().zip(toward) {
                *a += guidance * (*t - *a);
            }
            out.truncate(half);
        }
        Ok(out)
    }
}
