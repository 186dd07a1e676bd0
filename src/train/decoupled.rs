//! The decoupled objective: the branches of a step, and the parts they add to its loss (methods.md §2.1, §2.2).

use crate::{
    data::config::{DecouplingSection, TextFeature},
    error::Result,
    kernels::{
        cosine::{Cosine, MeanTokens},
        embedding::GatherRows,
        multiply::Multiply,
    },
    lora::Adapters,
    models::decoupling::{Decoupling, Fusion, Source},
    nn::Net,
    plan::{Recorder, Value},
    tensor::Spec,
};

/// Weights of the parts of the loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossWeights {
    /// The diffusion loss, L1.
    pub diffusion: f32,
    /// Cosine of text and implicit feature, pushed down, L2.
    pub text_implicit: f32,
    /// Cosine of implicit and explicit feature, pushed up, L3.
    pub implicit_explicit: f32,
    /// Cosine of text and explicit feature, pushed down, L4.
    pub text_background: f32,
    /// The diffusion loss of the text alone (DisenBooth's weak loss).
    pub weak: f32,
}

/// How a step decouples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decoupled {
    /// Sizes and switches of what is trained.
    pub model: Decoupling,
    /// Weights of the parts of the loss.
    pub weights: LossWeights,
    /// What stands for a text.
    pub text: TextFeature,
    /// Whether the background is left out of some samples.
    pub drops: bool,
}

/// One part of the loss.
#[derive(Clone, Copy, Debug)]
pub struct Term {
    /// Its column in the log.
    pub name: &'static str,
    /// What it is multiplied with in the sum.
    pub weight: f32,
    /// A scalar.
    pub value: Value,
}

/// What a decoupled step adds to the recording.
#[derive(Clone, Debug)]
pub struct Branches {
    /// What conditions the U-Net.
    pub context: Value,
    /// What conditions it in the weak loss: the text alone, fused.
    pub weak: Option<Value>,
    /// Logits of the router.
    pub logits: Option<Value>,
    /// Parts of the loss beside the diffusion losses.
    pub terms: Vec<Term>,
}

/// Name of the input with the features of whole photos, `[N, F]`.
pub const PHOTO: &str = "photo_features";
/// Name of the input with the features of photos without their subjects, `[N, F]`.
pub const BACKGROUND: &str = "background_features";
/// Name of the input that is 1 where a background is kept, `[N, d]`.
pub const KEEP: &str = "keep_background";
/// Name of the input with the weight of each token in the mean over a concept's, `[N, L, d]`.
pub const CONCEPT: &str = "concept_tokens";
/// Name of the input with the end of each text, `[N]` i32.
pub const TEXT_END: &str = "text_end";

impl Decoupled {
    /// What `section` asks for, with an image encoder of `features` and texts of `width`.
    pub fn new(section: &DecouplingSection, features: usize, width: usize) -> Self {
        let (d, source) = (section, section.irrelevant_source);
        let or = |n: usize, all: usize| if n == 0 { all } else { n };
        let fusion = d.fusion.then(|| Fusion {
            experts: d.experts,
            top_k: or(d.top_k, d.experts),
            hidden: or(d.hidden, width),
            routing: d.routing,
        });
        let adapter =
            d.text_implicit != 0.0 || d.implicit_explicit != 0.0 || source != Source::Explicit;
        Self {
            model: Decoupling { features, width, source, adapter, fusion },
            weights: LossWeights {
                diffusion: d.diffusion as f32,
                text_implicit: d.text_implicit as f32,
                implicit_explicit: d.implicit_explicit as f32,
                text_background: d.text_background as f32,
                weak: d.weak as f32,
            },
            text: d.text_feature,
            drops: d.drop > 0.0,
        }
    }

    /// Whether a step reads features of whole photos, and of photos without their subjects.
    pub fn reads(&self) -> [bool; 2] {
        let (w, source) = (&self.weights, self.model.source);
        let implicit = self.model.adapter
            && (w.text_implicit != 0.0 || w.implicit_explicit != 0.0 || source != Source::Explicit);
        let explicit =
            w.implicit_explicit != 0.0 || w.text_background != 0.0 || source != Source::Implicit;
        [implicit, explicit]
    }

    /// Names of the parts of the loss, in the log's order.
    pub fn parts(&self) -> Vec<&'static str> {
        let ([photo, background], w) = (self.reads(), &self.weights);
        let all = [
            ("diffusion", true),
            ("text_implicit", photo && w.text_implicit != 0.0),
            ("implicit_explicit", photo && background && w.implicit_explicit != 0.0),
            ("text_background", background && w.text_background != 0.0),
            ("weak", w.weak != 0.0),
        ];
        all.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect()
    }

    /// Columns of the log: the parts of the loss, the router's entropy, each expert's mean weight.
    pub fn columns(&self) -> Vec<String> {
        let mut all: Vec<String> = self.parts().into_iter().map(String::from).collect();
        if let Some(f) = self.model.fusion {
            all.push("router_entropy".into());
            all.extend((0..f.experts).map(|i| format!("expert_{i}")));
        }
        all
    }

    /// Whether a step reads the ends of the texts.
    pub fn reads_ends(&self) -> bool {
        let w = &self.weights;
        self.text == TextFeature::End && (w.text_implicit != 0.0 || w.text_background != 0.0)
    }

    /// Whether a step reads which tokens are those of subjects.
    pub fn reads_concepts(&self) -> bool {
        let w = &self.weights;
        self.text == TextFeature::Concept && (w.text_implicit != 0.0 || w.text_background != 0.0)
    }

    /// Records the branches for `batch` samples around `text` `[N, L, d]`; inputs [`PHOTO`], [`BACKGROUND`], [`KEEP`],
    /// [`CONCEPT`] and [`TEXT_END`] as far as they are needed.
    ///
    /// # Errors
    /// Those of the operations.
    pub fn record(&self, rec: &mut Recorder, text: Value, batch: usize) -> Result<Branches> {
        let (d, w, none) = (&self.model, &self.weights, Adapters::new());
        let [photo, background] = self.reads();
        let features = Spec::f32(&[batch, d.features]);
        let photo = photo.then(|| rec.input(PHOTO, features.clone()));
        let background = background.then(|| rec.input(BACKGROUND, features));
        let keep = self.drops.then(|| rec.input(KEEP, Spec::f32(&[batch, d.width])));
        let concept = self.reads_concepts().then(|| {
            let dims = rec.spec(text).dims.clone();
            rec.input(CONCEPT, Spec::f32(&dims))
        });
        let end = self.reads_ends().then(|| rec.input(TEXT_END, Spec::i32(&[batch])));
        let mut net = Net::new(rec, &none);
        let net = &mut net;
        let implicit = photo.map(|f| d.implicit(net, f)).transpose()?;
        let explicit = background.map(|f| d.explicit(net, f)).transpose()?;
        let beside = d.beside(net, implicit, explicit)?;
        let fused = d.fuse(net, text, Some((beside, keep)))?;
        let weak = match w.weak != 0.0 {
            true => Some(d.fuse(net, text, None)?.context),
            false => None,
        };
        let text = net.rec.compute(text)?;
        let whole = match (end, concept) {
            (Some(end), _) => net.rec.apply(GatherRows, &[text, end])?,
            (None, Some(weights)) => {
                let weights = net.rec.compute(weights)?;
                let own = net.rec.apply(Multiply, &[text, weights])?;
                net.rec.apply(MeanTokens, &[own])?
            }
            (None, None) => net.rec.apply(MeanTokens, &[text])?,
        };
        let pairs = [
            ("text_implicit", w.text_implicit, implicit, Some(whole)),
            ("implicit_explicit", -w.implicit_explicit, implicit, explicit),
            ("text_background", w.text_background, Some(whole), explicit),
        ];
        let mut terms = vec![];
        for (name, weight, a, b) in pairs {
            if let (true, Some(a), Some(b)) = (weight != 0.0, a, b) {
                let value = net.rec.scope(name, |rec| rec.apply(Cosine, &[a, b]))?;
                terms.push(Term { name, weight, value });
            }
        }
        Ok(Branches { context: fused.context, weak, logits: fused.logits, terms })
    }
}

/// Entropy of a router's choices in nats, mean over tokens, and the mean weight of every expert, from logits `[.., E]`.
pub fn router_statistics(logits: &[f32], experts: usize) -> (f32, Vec<f32>) {
    let (mut entropy, mut load) = (0.0f64, vec![0.0f64; experts]);
    let tokens = logits.len() / experts.max(1);
    for row in logits.chunks_exact(experts.max(1)) {
        let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let all: Vec<f64> = row.iter().map(|v| f64::from(v - top).exp()).collect();
        let sum: f64 = all.iter().sum();
        for (load, p) in load.iter_mut().zip(&all) {
            let p = p / sum;
            *load += p;
            entropy -= if p > 0.0 { p * p.ln() } else { 0.0 };
        }
    }
    let mean = |v: f64| (v / tokens.max(1) as f64) as f32;
    (mean(entropy), load.into_iter().map(mean).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_router_has_the_entropy_of_its_experts_and_a_sure_one_has_none() {
        let (entropy, load) = router_statistics(&[0.5; 8], 4);
        assert!((entropy - 4f32.ln()).abs() < 1e-6 && load.iter().all(|l| (l - 0.25).abs() < 1e-6));
        let (entropy, load) = router_statistics(&[90.0, 0.0, 0.0, 90.0], 2);
        assert!(entropy < 1e-6 && (load[0] - 0.5).abs() < 1e-6);
    }
}
