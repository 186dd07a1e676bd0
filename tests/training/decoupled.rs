//! The branches and the joint objective of dual-level decoupling equal torch (`tools/fixtures/make_decoupling.py`).

use super::{BATCH, Run, open, relative, row, train};
use selvedge::{
    data::config::{DecouplingSection, TextFeature},
    device::Device,
    error::Result,
    kernels::{
        cosine::{Cosine, MeanTokens},
        embedding::GatherRows,
        multiply::Multiply,
    },
    lora::Adapters,
    models::decoupling::Source,
    nn::{Net, Routing},
    plan::{Pass, PlanOptions, Program, Recorder, WeightLayout, WeightSource},
    tensor::{Floats, Spec, safetensors::SafeFile},
    train::{
        Batch, Decoupled, InitialWeights, Objective, Prediction,
        decoupled::{BACKGROUND, CONCEPT, KEEP, PHOTO, TEXT_END},
    },
};

const WIDTH: usize = 24;
const TOKENS: usize = 7;

/// The settings of `KINDS` in the script.
fn settings(kind: &str) -> Decoupled {
    let all = DecouplingSection { weak: 0.1, drop: 0.0, ..DecouplingSection::default() };
    let (section, features) = match kind {
        "decoupled" => {
            let (experts, hidden, drop) = (3, 16, 0.4);
            let weights = [0.05, 0.04, 0.03];
            let [text_implicit, implicit_explicit, text_background] = weights;
            let losses =
                DecouplingSection { text_implicit, implicit_explicit, text_background, ..all };
            (DecouplingSection { experts, hidden, drop, ..losses }, 10)
        }
        "mean" => (
            DecouplingSection {
                diffusion: 0.5,
                text_implicit: 0.02,
                implicit_explicit: 0.05,
                text_background: 0.03,
                weak: 0.0,
                irrelevant_source: Source::Mean,
                text_feature: TextFeature::End,
                experts: 4,
                top_k: 2,
                hidden: 8,
                routing: Routing::Sequence,
                ..all
            },
            WIDTH,
        ),
        _ => (
            DecouplingSection {
                text_implicit: 0.02,
                implicit_explicit: 0.0,
                text_background: 0.0,
                irrelevant_source: Source::Implicit,
                text_feature: TextFeature::Concept,
                fusion: false,
                ..all
            },
            WIDTH,
        ),
    };
    Decoupled::new(&section, features, WIDTH)
}

fn fixture() -> SafeFile {
    open("decoupled.safetensors")
}

/// Puts the start of the script's parameters into `start`.
pub fn give<S: WeightSource>(start: &mut InitialWeights<S>, kind: &str) {
    let (file, prefix) = (fixture(), format!("{kind}.start."));
    for key in file.entries().keys().filter(|k| k.starts_with(&prefix)) {
        start.give(&key[prefix.len()..], file.f32(key).unwrap().data);
    }
}

/// Feeds what the script fed in micro-batch `i`.
pub fn feed(batch: &mut Batch, d: &Decoupled, kind: &str, i: usize) {
    let file = fixture();
    let get = |name: &str| row(&file.f32(&format!("{kind}.{name}")).unwrap(), i);
    let [photo, background] = d.reads();
    batch.condition.extend(photo.then(|| (PHOTO, get("photo"))));
    batch.condition.extend(background.then(|| (BACKGROUND, get("background"))));
    batch.condition.extend(d.drops.then(|| (KEEP, get("keep"))));
    let ends = file.i32(&format!("{kind}.ends")).unwrap()[i * BATCH..(i + 1) * BATCH].to_vec();
    batch.condition.extend(d.reads_concepts().then(|| (CONCEPT, concept(&ends))));
    batch.ids.extend(d.reads_ends().then_some((TEXT_END, ends)));
}

/// Weights of the mean over the concept's tokens, the second and the end.
fn concept(ends: &[i32]) -> Vec<f32> {
    let mut weights = vec![];
    for end in ends {
        let own = |token: usize| token == 1 || i32::try_from(token) == Ok(*end);
        let count = if *end == 1 { 1.0 } else { 2.0 };
        let weight = |token| if own(token) { TOKENS as f32 / count } else { 0.0 };
        weights.extend((0..TOKENS).flat_map(|token| [weight(token); WIDTH]));
    }
    weights
}

#[test]
fn ten_steps_of_the_joint_objective_equal_torch() {
    let file = fixture();
    for kind in ["decoupled", "mean", "disenbooth"] {
        let run = Run {
            kind: Box::leak(kind.to_string().into_boxed_str()),
            decoupled: Some(settings(kind)),
            objective: Objective::Mse,
            prediction: Prediction::Epsilon,
            clip: 0.05,
        };
        let (losses, norms, trained) = train(&run, false);
        let get = |name: &str| file.f32(&format!("{kind}.{name}")).unwrap().data;
        for (step, (got, want)) in losses.iter().zip(&get("loss")).enumerate() {
            assert!((got - want).abs() / want < 1e-4, "{kind} step {step}: {got}, torch {want}");
        }
        assert!(relative(&norms, &get("norm")) < 1e-3, "{kind}: {norms:?}");
        for (name, got) in &trained {
            let error = relative(got, &get(&format!("final.{name}")));
            assert!(error < 1e-3, "{kind}: {name} differs by {error}");
        }
        let own = trained.iter().filter(|(name, _)| name.starts_with("decoupling.")).count();
        let prefix = format!("{kind}.final.decoupling.");
        assert_eq!(own, file.entries().keys().filter(|k| k.starts_with(&prefix)).count());
    }
}

/// Parameters of a pass.
struct Own(SafeFile, &'static str);

impl WeightSource for Own {
    fn get(&self, name: &str, _: &[usize], _: WeightLayout) -> Result<Option<Floats>> {
        let name = name.strip_prefix("decoupling.").unwrap();
        Ok(Some(self.0.f32(&format!("{}.pass.{name}", self.1))?.data.into()))
    }
}

/// The branches with gradients of everything: `sum(context seed)` and the weighted cosines.
fn pass(kind: &'static str) -> (Program, Vec<String>) {
    let (d, file, none) = (settings(kind), fixture(), Adapters::new());
    let mut rec = Recorder::new();
    rec.train_if(|_| true);
    let text = rec.input_with_grad("text", Spec::f32(&[BATCH, TOKENS, WIDTH]));
    let features = Spec::f32(&[BATCH, d.model.features]);
    let photo = rec.input_with_grad("photo", features.clone());
    let background = rec.input_with_grad("background", features);
    let keep = d.drops.then(|| rec.input("keep", Spec::f32(&[BATCH, WIDTH])));
    let mut net = Net::new(&mut rec, &none);
    let net = &mut net;
    let implicit = d.model.implicit(net, photo).unwrap();
    let explicit = d.model.explicit(net, background).unwrap();
    let beside = d.model.beside(net, Some(implicit), Some(explicit)).unwrap();
    let context = d.model.fuse(net, text, Some((beside, keep))).unwrap().context;
    let whole = match d.text {
        TextFeature::Mean => net.rec.apply(MeanTokens, &[text]).unwrap(),
        TextFeature::End => {
            let ends = net.rec.indices("ends", &[3, 5]);
            net.rec.apply(GatherRows, &[text, ends]).unwrap()
        }
        TextFeature::Concept => {
            let own = net.rec.table("concept", &[BATCH, TOKENS, WIDTH], concept(&[3, 5]));
            let own = net.rec.apply(Multiply, &[text, own]).unwrap();
            net.rec.apply(MeanTokens, &[own]).unwrap()
        }
    };
    let pairs = [(implicit, whole), (implicit, explicit), (whole, explicit)];
    let cosines = pairs.map(|(a, b)| net.rec.apply(Cosine, &[a, b]).unwrap());
    let names: Vec<String> = rec.params().into_iter().map(|p| p.name).collect();
    let [a, b, c] = cosines;
    let outputs = [("context", context), ("a", a), ("b", b), ("c", c)];
    let options = PlanOptions { pass: Pass::Seeded, poison: true, ..PlanOptions::default() };
    let mut p =
        rec.plan(&outputs, options).unwrap().load(Device::Cpu, &Own(fixture(), kind)).unwrap();
    let get = |name: &str| file.f32(&format!("{kind}.pass.{name}")).unwrap().data;
    for name in ["text", "photo", "background"] {
        p.set(name, &get(name)).unwrap();
    }
    if d.drops {
        p.set("keep", &get("keep")).unwrap();
    }
    p.set_grad("context", &get("seed")).unwrap();
    let w = d.weights;
    for (name, weight) in
        [("a", w.text_implicit), ("b", -w.implicit_explicit), ("c", w.text_background)]
    {
        p.set_grad(name, &[weight]).unwrap();
    }
    p.forward_backward(true, None).unwrap();
    (p, names)
}

#[test]
fn the_branches_and_every_gradient_equal_torch() {
    let file = fixture();
    for kind in ["decoupled", "mean", "disenbooth"] {
        let (p, names) = pass(kind);
        let want = |name: &str| file.f32(&format!("{kind}.pass.{name}")).unwrap().data;
        assert!(relative(&p.get("context").unwrap(), &want("context")) < 1e-5, "{kind}: context");
        let cosines = ["a", "b", "c"].map(|name| p.get(name).unwrap()[0]);
        assert!(relative(&cosines, &want("cosines")) < 1e-5, "{kind}: {cosines:?}");
        for name in ["text", "photo", "background"] {
            let (got, want) = (p.grad(name).unwrap(), want(&format!("grad.{name}")));
            assert!(relative(&got, &want) < 2e-4, "{kind}: gradient of {name}");
        }
        for name in &names {
            let inner = name.strip_prefix("decoupling.").unwrap();
            let error = relative(&p.grad(name).unwrap(), &want(&format!("grad.{inner}")));
            assert!(error < 2e-4, "{kind}: gradient of {name} differs by {error}");
        }
    }
}
