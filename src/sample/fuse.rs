//! The conditioning of a decoupled adapter: a text, and what a photo shows beside its subject, fused as in training.

use crate::{
    device::Device,
    error::{Error, Result},
    lora::{Adapters, Lora},
    models::decoupling::Decoupling,
    nn::Net,
    plan::{Program, Recorder, WeightSource},
    tensor::{DType, Spec, Types},
};

/// What stands beside the text.
#[derive(Clone, Debug, PartialEq)]
pub enum Beside {
    /// Nothing: subject and text only.
    Nothing,
    /// The feature of a photo without a subject: the text in that scene.
    Scene(Vec<f32>),
    /// The feature of a photo with its subject; the adapter leaves what is not the subject.
    Photo(Vec<f32>),
}

/// How texts become conditioning.
#[derive(Clone, Debug, PartialEq)]
pub struct Steering {
    /// Sizes and switches of the adapter.
    pub model: Decoupling,
    /// What the text is multiplied with.
    pub identity: f32,
    /// What the feature beside it is multiplied with.
    pub background: f32,
    /// The feature.
    pub beside: Beside,
}

impl Steering {
    /// Subject and text only, where `lora` is decoupled.
    ///
    /// # Errors
    /// [`Error::Data`] for a description that is damaged.
    pub fn of(lora: &Lora) -> Result<Option<Self>> {
        let Some(text) = lora.decoupling() else { return Ok(None) };
        let model: Decoupling = serde_json::from_str(text).map_err(|e| Error::Data {
            at: "the adapter's selvedge.decoupling".into(),
            found: e.to_string(),
            expected: "its sizes and switches".into(),
            fix: "train it anew, or take an undamaged file".into(),
        })?;
        Ok(Some(Self::subject(model)))
    }

    /// Subject and text only.
    pub fn subject(model: Decoupling) -> Self {
        Self { model, identity: 1.0, background: 1.0, beside: Beside::Nothing }
    }

    /// Refuses what does not fit a base with texts of this width, or a feature of another length.
    ///
    /// # Errors
    /// [`Error::Data`] that says which.
    pub fn check(&self, width: usize) -> Result<()> {
        let wrong = |found: String, expected: String, fix: &str| {
            let at = "decoupled adapter".into();
            Err(Error::Data { at, found, expected, fix: fix.into() })
        };
        if self.model.width != width {
            let found = format!("an adapter for texts of width {}", self.model.width);
            return wrong(found, format!("{width}, the base's"), "give the base it was trained on");
        }
        if matches!(self.beside, Beside::Photo(_)) && !self.model.adapter {
            let found = "an adapter without the implicit branch".into();
            let fix = "give --mode scene, or train with a weight for L2 or L3";
            return wrong(found, "one for --mode reconstruct".into(), fix);
        }
        match &self.beside {
            Beside::Scene(f) | Beside::Photo(f) if f.len() != self.model.features => {
                let found = format!("a feature of {} numbers", f.len());
                let expected = format!("{}, as in training", self.model.features);
                wrong(found, expected, "give --encoder the image encoder of the training")
            }
            _ => Ok(()),
        }
    }

    /// What conditions the U-Net instead of the texts `[N, L, d]`.
    ///
    /// # Errors
    /// Those of the weights and of the device.
    pub(super) fn fuse(
        &self,
        device: &Device,
        types: Types,
        weights: &dyn WeightSource,
        context: &[f32],
    ) -> Result<Vec<f32>> {
        let d = &self.model;
        let tokens = context.len() / d.width.max(1);
        let (mut rec, none) = (Recorder::in_dtype(types), Adapters::new());
        let text = rec.input("text", Spec::f32(&[1, tokens, d.width]));
        let feature = match &self.beside {
            Beside::Nothing => None,
            Beside::Scene(f) | Beside::Photo(f) => {
                let amount = rec.input("amount", Spec::f32(&[1, d.width]));
                Some((rec.input("feature", Spec::f32(&[1, d.features])), amount, f))
            }
        };
        let mut net = Net::new(&mut rec, &none);
        let net = &mut net;
        let beside = match (feature, &self.beside) {
            (None, _) => None,
            (Some((f, amount, _)), Beside::Photo(_)) => Some((d.implicit(net, f)?, Some(amount))),
            (Some((f, amount, _)), _) => Some((d.explicit(net, f)?, Some(amount))),
        };
        let fused = d.fuse(net, text, beside)?.context;
        let out = rec.cast(fused, DType::F32)?;
        let mut program: Program = rec.plan_inference(out)?.load(device.clone(), weights)?;
        let text: Vec<f32> = context.iter().map(|v| v * self.identity).collect();
        program.set("text", &text)?;
        if let Some((_, _, f)) = feature {
            program.set("feature", f)?;
            program.set("amount", &vec![self.background; d.width])?;
        }
        program.forward()?;
        program.get("out")
    }
}
