//! The forward process: clean latents and noise at a timestep give the noisy latents, or the velocity.

pub mod cases;
mod cpu;
mod cuda;

use crate::{
    device::Device,
    error::{Error, Result},
    kernels::check,
    op::{Backward, Cost, Forward, Indices, Keeps, Op, Signature},
    tensor::{DType, Spec},
};

/// Which combination of latents and noise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Noising {
    /// `x_t = sqrt(abar) z + sqrt(1 - abar) eps`: what the U-Net sees.
    #[default]
    Noisy,
    /// `v = sqrt(abar) eps - sqrt(1 - abar) z`: what a v-prediction model is asked for.
    Velocity,
}

/// Mixes latents with noise at the timestep of each sample.
///
/// `Noisy: sqrt(abar_t) z + sqrt(1 - abar_t) eps`; `Velocity: sqrt(abar_t) eps - sqrt(1 - abar_t) z`.
///
/// # Shapes
/// `z, eps: [N, ..]`, `t: [N]` i32, `abar: [T]` (the cumulative product of the alphas) -> `[N, ..]`.
///
/// # Gradient
/// Of `z` and `eps`, linear: reads only `t` and `abar`, which have none (they are constants of the schedule).
///
/// # Numerics
/// f32. In a kernel alone a timestep outside the table takes the nearest end.
///
/// # Errors
/// [`Error::Shape`] or [`Error::DType`]; [`Error::Data`] when a program is fed a timestep outside the table.
///
/// # Source
/// Ho et al. 2020, eq. 4; Salimans & Ho 2022 for the velocity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Diffuse {
    /// Which combination.
    pub mix: Noising,
}

impl Op for Diffuse {
    fn name(&self) -> &'static str {
        "diffuse"
    }

    fn types(&self) -> &'static [DType] {
        &[DType::F32]
    }

    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        let bad = |what, s: &Spec, want: String| {
            Err(Error::Shape { at: "diffuse".into(), what, got: s.dims.clone(), want })
        };
        let [z, eps, t, table] = ins else {
            let want = "four inputs: z, eps, t, table".into();
            let got = vec![ins.len()];
            return Err(Error::Shape { at: "diffuse".into(), what: "inputs", got, want });
        };
        for (spec, name) in [(z, "z"), (eps, "eps"), (table, "abar")] {
            check::f32_inputs(self.name(), std::slice::from_ref(spec), &[name])?;
        }
        if z.dims.is_empty() {
            return bad("z", z, "[N, ..]".into());
        }
        if eps.dims != z.dims {
            return bad("eps", eps, format!("{:?} as z", z.dims));
        }
        if t.dims != z.dims[..1] {
            return bad("t", t, format!("{:?}, one timestep a sample", &z.dims[..1]));
        }
        if t.dtype != DType::I32 {
            let (got, want) = (t.dtype.to_string(), "i32 timesteps".into());
            return Err(Error::DType { at: "diffuse".into(), got, want });
        }
        if table.dims.len() != 1 || table.is_empty() {
            return bad("table", table, "[T], T > 0".into());
        }
        Ok(Signature::of(z.clone()))
    }

    fn indices(&self, ins: &[Spec]) -> Vec<Indices> {
        vec![Indices { input: 2, what: "timestep", below: ins[3].dims[0] }]
    }

    fn keeps(&self, wants: &[bool]) -> Keeps {
        let any = wants.iter().take(2).any(|w| *w);
        Keeps { ins: if any { vec![2, 3] } else { vec![] }, ..Keeps::default() }
    }

    fn cost(&self, ins: &[Spec], out: &Spec) -> Cost {
        let bytes = ins.iter().take(2).map(Spec::bytes).sum::<usize>() + out.bytes();
        Cost { flop: 3.0 * out.len() as f64, bytes: bytes as f64 }
    }

    fn detail(&self) -> String {
        match self.mix {
            Noising::Noisy => String::new(),
            Noising::Velocity => "velocity".into(),
        }
    }

    fn forward(&self, io: Forward<'_>) -> Result<()> {
        match io.device {
            Device::Cpu => cpu::forward(self.mix, io),
            Device::Cuda(cuda) => return cuda::forward(self.mix, cuda, &io),
        }
        Ok(())
    }

    fn backward(&self, io: Backward<'_>) -> Result<()> {
        match io.device {
            Device::Cpu => cpu::backward(self.mix, io),
            Device::Cuda(cuda) => return cuda::backward(self.mix, cuda, &io),
        }
        Ok(())
    }
}
