//! Values that cannot be used, each with its key.

use super::{Loss, Mode, TrainConfig, TrainText};
use crate::error::{Error, Result};
use std::path::Path;

fn bad(key: &str, found: impl ToString, expected: &str, fix: &str) -> Error {
    Error::Config {
        key: key.into(),
        found: found.to_string(),
        expected: expected.into(),
        fix: fix.into(),
    }
}

fn within(key: &str, value: f64, low: f64, high: f64) -> Result<()> {
    match value >= low && value <= high {
        true => Ok(()),
        false => Err(bad(key, value, &format!("a number in {low}..{high}"), "change it")),
    }
}

impl TrainConfig {
    /// Checks every value by itself and the ones that depend on each other.
    ///
    /// # Errors
    /// [`Error::Config`] with the key, [`Error::Data`] when subjects are missing.
    pub fn check(&self) -> Result<()> {
        self.check_subjects()?;
        self.check_method()?;
        self.check_decoupling()?;
        self.check_segment()?;
        self.check_caption()?;
        self.check_train()
    }

    fn check_caption(&self) -> Result<()> {
        let c = &self.caption;
        let web = ["http://", "https://"].iter().any(|s| c.url.trim().starts_with(s));
        if c.is_on() && !web {
            return Err(bad("caption.url", &c.url, "http://... or https://...", "write it whole"));
        }
        if !c.is_on() && !c.key_env.trim().is_empty() {
            return Err(bad("caption.key_env", &c.key_env, "caption.url beside it", "add the URL"));
        }
        if c.is_on() == c.model.trim().is_empty() {
            let fix = "give both caption.url and caption.model, or none";
            return Err(bad("caption", "one of url and model", "both", fix));
        }
        Ok(())
    }

    fn check_segment(&self) -> Result<()> {
        let s = &self.segment;
        within("segment.threshold", s.threshold, 0.0, 1.0)?;
        within("segment.prior_threshold", s.prior_threshold, 0.0, 1.0)?;
        within("segment.nms", s.nms, 0.0, 1.0)?;
        within("segment.margin", s.margin, 0.0, 1.0)?;
        s.padding()?;
        let empty = |p: &Path| p.as_os_str().is_empty();
        match (empty(&s.detector), empty(&s.segmenter)) {
            (true, false) => {
                let fix = "add detector = \"...\", or leave segmenter out";
                Err(bad("segment.detector", "nothing", "an OWLv2 folder", fix))
            }
            (false, true) => {
                let fix = "add segmenter = \"...\", or leave detector out";
                Err(bad("segment.segmenter", "nothing", "a SAM or MobileSAM", fix))
            }
            _ => Ok(()),
        }
    }

    fn check_subjects(&self) -> Result<()> {
        for (i, s) in self.subjects.iter().enumerate() {
            let key = |name: &str| format!("subject {}: {name}", i + 1);
            if s.id.trim().is_empty() {
                return Err(bad(&key("id"), "nothing", "a short name", "add id = \"a\""));
            }
            if self.subjects[..i].iter().any(|o| o.id == s.id) {
                return Err(bad(&key("id"), &s.id, "a name used once", "rename one of the two"));
            }
            if s.class.trim().is_empty() {
                let fix = "add class = \"red monster plush\", or write it into class.txt beside the photos; with [caption] \
                           `train` asks for it";
                return Err(bad(&key("class"), "nothing", "a descriptive class", fix));
            }
            if s.images.as_os_str().is_empty() {
                return Err(bad(&key("images"), "nothing", "a folder", "add images = \"...\""));
            }
            if let Some(scale) = s.scale {
                within(&key("scale"), scale, 0.01, 1.0)?;
            }
        }
        let need = if self.method.name.mixes() { 2 } else { 1 };
        if self.subjects.len() < need {
            let name = format!("{:?}", self.method.name).to_lowercase();
            return Err(Error::Data {
                at: "subjects".into(),
                found: format!("{} [[subject]] table(s)", self.subjects.len()),
                expected: format!("at least {need} for method {name}"),
                fix: "add a [[subject]], or set method.name = \"dreambooth\"".into(),
            });
        }
        Ok(())
    }

    fn check_method(&self) -> Result<()> {
        let m = &self.method;
        within("method.mix_probability", m.mix_probability, 0.0, 1.0)?;
        within("method.soft_alpha", m.soft_alpha, 0.0, 1.0)?;
        within("method.scale_min", m.scale_min, 0.01, 1.0)?;
        within("method.scale_max", m.scale_max, m.scale_min, 1.0)?;
        within("method.margin", m.margin as f64, 1.0, 512.0)?;
        within("method.prior_weight", m.prior_weight, 0.0, 1e6)?;
        within("method.min_snr_gamma", m.min_snr_gamma, 0.0, 1e6)?;
        within("method.prior_guidance", m.prior_guidance, 0.0, 1e3)?;
        if m.prior_steps == 0 {
            return Err(bad("method.prior_steps", 0, "at least 1", "the published value is 50"));
        }
        if m.loss == Loss::Dco && m.prior_preservation {
            let fix =
                "take --preset mudi-v1 or set method.loss = \"mse\"; or leave the prior set out";
            return Err(bad("method.loss", "dco with prior_preservation", "one of the two", fix));
        }
        if m.loss == Loss::Dco && m.min_snr_gamma > 0.0 {
            let fix = "set method.min_snr_gamma = 0, or method.loss = \"mse\"";
            let found = format!("{} with loss dco", m.min_snr_gamma);
            return Err(bad("method.min_snr_gamma", found, "0: DCO has no per-sample weight", fix));
        }
        if m.loss == Loss::Dco && self.train.mode == Mode::Full {
            let fix =
                "set method.loss = \"mse\": dco compares with the base, which mode full changes";
            return Err(bad("method.loss", "dco in mode full", "mse in mode full", fix));
        }
        if m.loss == Loss::Dco {
            within("method.dco_beta", m.dco_beta, 1e-9, 1e9)?;
        }
        if m.prior_preservation && m.prior_images == 0 {
            return Err(bad("method.prior_images", 0, "at least 1", "the published value is 50"));
        }
        Ok(())
    }

    fn check_decoupling(&self) -> Result<()> {
        let d = &self.decoupling;
        let weights = [
            ("decoupling.diffusion", d.diffusion),
            ("decoupling.text_implicit", d.text_implicit),
            ("decoupling.implicit_explicit", d.implicit_explicit),
            ("decoupling.text_background", d.text_background),
            ("decoupling.weak", d.weak),
        ];
        weights.into_iter().try_for_each(|(key, weight)| within(key, weight, 0.0, 1e6))?;
        within("decoupling.drop", d.drop, 0.0, 1.0)?;
        within("decoupling.experts", d.experts as f64, 1.0, 512.0)?;
        within("decoupling.top_k", d.top_k as f64, 0.0, d.experts as f64)?;
        within("decoupling.hidden", d.hidden as f64, 0.0, 65536.0)?;
        within("decoupling.grow", d.grow as f64, -1.0, 1024.0)?;
        if d.fill.trim().is_empty() {
            return Err(bad(
                "decoupling.fill",
                "nothing",
                "classical, base or a model",
                "name one",
            ));
        }
        if !self.decouples() {
            return Ok(());
        }
        if d.diffusion == 0.0 && d.weak == 0.0 {
            let fix = "set decoupling.diffusion = 1";
            return Err(bad("decoupling.diffusion", 0, "a weight above 0", fix));
        }
        if self.train.mode == Mode::Full {
            let fix = "set train.mode = \"lora\"";
            return Err(bad("train.mode", "full with decoupling", "lora", fix));
        }
        if self.method.prior_preservation {
            let fix = "set method.prior_preservation = false: neither paper has a prior set";
            return Err(bad("method.prior_preservation", "true with decoupling", "false", fix));
        }
        let bare = self.subjects.iter().find(|s| s.token.trim().is_empty());
        if let (TrainText::Embedding, Some(s)) = (d.train_text, bare) {
            let found = format!("embedding, and subject {} without a token", s.id);
            let fix = "give it a token, or set decoupling.train_text = \"lora\"";
            return Err(bad("decoupling.train_text", found, "identifiers to learn", fix));
        }
        if d.encoder.as_os_str().is_empty() && self.base != "nano" {
            let fix = "name a CLIP, for example encoder = \"clip-vit-large-patch14\"";
            return Err(bad("decoupling.encoder", "nothing", "a CLIP image tower", fix));
        }
        Ok(())
    }

    fn check_train(&self) -> Result<()> {
        let t = &self.train;
        if t.resolution < 32 || !t.resolution.is_multiple_of(8) || t.resolution > 8192 {
            let want = "a multiple of 8 in 32..8192";
            return Err(bad("train.resolution", t.resolution, want, "nano: 128, SDXL: 1024"));
        }
        let counts = [
            ("train.steps", t.steps as usize),
            ("train.batch", t.batch),
            ("train.accumulate", t.accumulate),
            ("train.rank", t.rank),
            ("train.sample_steps", t.sample_steps),
        ];
        for (key, n) in counts {
            if n == 0 {
                return Err(bad(key, 0, "at least 1", "change it"));
            }
        }
        within("train.learning_rate", t.learning_rate, 0.0, 10.0)?;
        within("train.text_learning_rate", t.text_learning_rate, 0.0, 10.0)?;
        within("train.weight_decay", t.weight_decay, 0.0, 10.0)?;
        within("train.text_weight_decay", t.text_weight_decay, 0.0, 10.0)?;
        within("train.betas[0]", t.betas[0], 0.0, 0.999_999)?;
        within("train.betas[1]", t.betas[1], 0.0, 0.999_999_9)?;
        within("train.eps", t.eps, 0.0, 1.0)?;
        within("train.sample_guidance", t.sample_guidance, 0.0, 1e3)?;
        within("train.sample_gamma", t.sample_gamma, 0.0, 1e3)?;
        within("train.clip_norm", t.clip_norm, 0.0, 1e9)?;
        within("train.alpha", t.alpha, 0.0, 1e6)?;
        t.loss_scale.check()?;
        within("train.ema_decay", t.ema_decay, 0.0, 1.0)?;
        if t.mode == Mode::Full && !t.from.as_os_str().is_empty() {
            let fix = "start full training from a model folder: base = \"RUN/model\"";
            return Err(bad("train.from", t.from.display(), "nothing, in mode full", fix));
        }
        if t.mode == Mode::Full && t.parts.is_empty() {
            let fix = "for example parts = [\"unet.*attn2.to_[kv]\"]";
            return Err(bad("train.parts", "nothing", "patterns, in mode full", fix));
        }
        for f in &t.formats {
            if !["peft", "kohya", "comfy"].contains(&f.as_str()) {
                return Err(bad("train.formats", f, "peft, kohya or comfy", "change it"));
            }
        }
        Ok(())
    }
}
