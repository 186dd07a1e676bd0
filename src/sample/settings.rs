//! What a sampler takes from `scheduler_config.json`.
//!
//! Each sampler reads the keys that its class in diffusers reads, and absent keys have that class's
//! defaults: the result is `XScheduler.from_config(...)`. A value that is not implemented is refused; a
//! key that the class does not have and that asks for something is listed in [`Settings::unread`].

use crate::{
    error::{Error, Result},
    kernels::scheduler::SecondOrder,
    models::{
        config::Keys,
        noise::{NoiseSchedule, Spacing},
    },
};
use serde_json::{Value as Json, json};

/// The update rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sampler {
    /// Euler on the probability-flow ODE in sigma coordinates.
    #[default]
    Euler,
    /// DDIM without noise.
    Ddim,
    /// DPM-Solver++ (2M).
    DpmPp,
}

impl std::str::FromStr for Sampler {
    type Err = Error;
    fn from_str(word: &str) -> Result<Self> {
        match word {
            "euler" => Ok(Self::Euler),
            "ddim" => Ok(Self::Ddim),
            "dpm++" => Ok(Self::DpmPp),
            other => Err(Error::Config {
                key: "--sampler".into(),
                found: other.into(),
                expected: "euler, ddim or dpm++".into(),
                fix: "choose one of these".into(),
            }),
        }
    }
}

/// How the noise levels between the first and the last are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    /// Those of the timesteps.
    Timesteps,
    /// Evenly in `sigma^(1/7)` (Karras et al. 2022).
    Karras,
    /// Evenly in `ln sigma`.
    Exponential,
}

/// The level after the last step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastSigma {
    /// 0: the clean picture.
    Zero,
    /// That of the first training timestep.
    Smallest,
}

/// The multistep solver's choices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Solver {
    /// 1 or 2.
    pub order: usize,
    /// The second-order term.
    pub kind: SecondOrder,
    /// First order in the last of less than 15 steps.
    pub lower_order_final: bool,
    /// First order in the last step.
    pub euler_at_final: bool,
}

/// A sampler's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Whose.
    pub sampler: Sampler,
    /// Levels of the training timesteps, and what the model predicts.
    pub noise: NoiseSchedule,
    /// Where the timesteps lie.
    pub spacing: Spacing,
    /// Added to timesteps of leading spacing.
    pub offset: usize,
    /// How levels are chosen.
    pub curve: Curve,
    /// Smallest and largest level of a curve, where they are given.
    pub range: [Option<f64>; 2],
    /// The level after the last step.
    pub last: LastSigma,
    /// DDIM: the estimate of the clean latent is kept within this.
    pub clip: Option<f32>,
    /// DDIM: the last step ends at `abar = 1` instead of that of timestep 0.
    pub alpha_to_one: bool,
    /// DPM-Solver++: levels with a smaller `ln(alpha / sigma)` are left out.
    pub lambda_min: Option<f64>,
    /// DPM-Solver++: timesteps of a curve are rounded, not cut.
    pub rounded: bool,
    /// DPM-Solver++.
    pub solver: Solver,
    /// `key = value` of what asks for something and is no key of this sampler.
    pub unread: Vec<String>,
}

/// Values of other samplers' keys that ask for nothing.
fn asks_nothing(key: &str, value: &Json) -> bool {
    let silent = [
        ("interpolation_type", json!("linear")),
        ("timestep_type", json!("discrete")),
        ("final_sigmas_type", json!("zero")),
        ("algorithm_type", json!("dpmsolver++")),
    ];
    // Ranges and choices of features that are switched on elsewhere.
    let details = [
        "set_alpha_to_one",
        "skip_prk_steps",
        "steps_offset",
        "clip_sample_range",
        "sample_max_value",
        "dynamic_thresholding_ratio",
        "solver_order",
        "solver_type",
        "lower_order_final",
        "lambda_min_clipped",
        "variance_type",
        "flow_shift",
        "time_shift_type",
        "sigma_min",
        "sigma_max",
        "rho",
    ];
    *value == json!(false)
        || details.contains(&key)
        || silent.iter().any(|s| s == &(key, value.clone()))
}

impl Settings {
    /// The settings of `sampler` in `scheduler`, a `scheduler_config.json`.
    ///
    /// # Errors
    /// [`Error::Config`] that names a key whose value is not implemented.
    pub fn read(scheduler: &Json, sampler: Sampler) -> Result<Self> {
        let mut k = Keys::new("scheduler_config.json", scheduler)?;
        let noise = NoiseSchedule::read(&mut k)?;
        let spacing = match (k.get("timestep_spacing"), sampler) {
            (None, Sampler::Ddim) => Spacing::Leading,
            (None, _) => Spacing::Linspace,
            (Some(v), _) => {
                let word = v.as_str().and_then(|w| w.parse().ok());
                word.ok_or_else(|| k.wrong("timestep_spacing", "leading, trailing or linspace"))?
            }
        };
        let offset = k.number("steps_offset", 0)?;
        let mut s = Self { spacing, offset, ..Self::plain(sampler, noise) };
        match sampler {
            Sampler::Euler => s.euler(&mut k)?,
            Sampler::Ddim => s.ddim(&mut k)?,
            Sampler::DpmPp => s.dpm(&mut k)?,
        }
        let unread = k.unread().filter(|(key, value)| !asks_nothing(key, value));
        s.unread = unread.map(|(key, value)| format!("{key} = {value}")).collect();
        Ok(s)
    }

    /// Leading spacing with offset 1 down to level 0, and nothing else.
    pub fn plain(sampler: Sampler, noise: NoiseSchedule) -> Self {
        Self {
            sampler,
            noise,
            spacing: Spacing::Leading,
            offset: 1,
            curve: Curve::Timesteps,
            range: [None; 2],
            last: LastSigma::Zero,
            clip: None,
            alpha_to_one: false,
            lambda_min: None,
            rounded: true,
            solver: Solver {
                order: 2,
                kind: SecondOrder::Midpoint,
                lower_order_final: true,
                euler_at_final: false,
            },
            unread: vec![],
        }
    }

    /// The same with another spacing, where one is given.
    pub fn spaced(self, spacing: Option<Spacing>) -> Self {
        Self { spacing: spacing.unwrap_or(self.spacing), ..self }
    }

    fn euler(&mut self, k: &mut Keys<'_>) -> Result<()> {
        k.name("interpolation_type", &["linear"])?;
        k.name("timestep_type", &["discrete"])?;
        let given = |k: &mut Keys<'_>, key| match k.get(key) {
            None => Ok(None),
            Some(_) => match k.double(key, 0.0)? {
                x if x > 0.0 && x.is_finite() => Ok(Some(x)),
                _ => Err(k.wrong(key, "a number above 0")),
            },
        };
        self.range = [given(k, "sigma_min")?, given(k, "sigma_max")?];
        self.curve(k)
    }

    fn ddim(&mut self, k: &mut Keys<'_>) -> Result<()> {
        let range = k.real("clip_sample_range", 1.0)?;
        self.clip = k.flag("clip_sample", true)?.then_some(range);
        self.alpha_to_one = k.flag("set_alpha_to_one", true)?;
        k.neutral(&[("thresholding", json!(false))])?;
        k.skip(&["dynamic_thresholding_ratio", "sample_max_value"]);
        Ok(())
    }

    fn dpm(&mut self, k: &mut Keys<'_>) -> Result<()> {
        self.solver.order = k.number("solver_order", 2)?;
        if !(1..=2).contains(&self.solver.order) {
            return Err(k.wrong("solver_order", "1 or 2"));
        }
        k.name("algorithm_type", &["dpmsolver++", "deis"])?;
        // diffusers takes the last three for midpoint
        let kinds = ["midpoint", "heun", "logrho", "bh1", "bh2"];
        if k.name("solver_type", &kinds)? == "heun" {
            self.solver.kind = SecondOrder::Heun;
        }
        self.solver.lower_order_final = k.flag("lower_order_final", true)?;
        self.solver.euler_at_final = k.flag("euler_at_final", false)?;
        let switches =
            ["thresholding", "use_lu_lambdas", "use_flow_sigmas", "use_dynamic_shifting"];
        k.neutral(&switches.map(|key| (key, json!(false))))?;
        if k.get("variance_type")
            .is_some_and(|v| v.as_str().is_some_and(|v| v.starts_with("learned")))
        {
            return Err(k.wrong("variance_type", "a model without learned variance"));
        }
        let lambda = k.double("lambda_min_clipped", f64::NEG_INFINITY)?;
        self.lambda_min = Some(lambda).filter(|l| l.is_finite());
        self.rounded = k
            .name("beta_schedule", &["linear", "scaled_linear", "squaredcos_cap_v2"])?
            != "squaredcos_cap_v2";
        k.skip(&[
            "dynamic_thresholding_ratio",
            "sample_max_value",
            "flow_shift",
            "time_shift_type",
        ]);
        self.curve(k)
    }

    /// The keys that Euler and DPM-Solver++ share.
    fn curve(&mut self, k: &mut Keys<'_>) -> Result<()> {
        k.neutral(&[("use_beta_sigmas", json!(false))])?;
        let karras = k.flag("use_karras_sigmas", false)?;
        let exponential = k.flag("use_exponential_sigmas", false)?;
        self.curve = match (karras, exponential) {
            (true, true) => return Err(k.wrong("use_exponential_sigmas", "one of the two curves")),
            (true, _) => Curve::Karras,
            (_, true) => Curve::Exponential,
            _ => Curve::Timesteps,
        };
        self.last = match k.name("final_sigmas_type", &["zero", "sigma_min"])? {
            "zero" => LastSigma::Zero,
            _ => LastSigma::Smallest,
        };
        Ok(())
    }
}
