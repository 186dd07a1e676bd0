//! What adapters add: against peft, against plain sums, and back from a change.

use super::{fixture, fixture_modules, wave};
use selvedge::{
    error::Error,
    lora::{
        Convention, Layer, Lora, Loras, Merged, Modules, delta, down_name, extract, merge, up_name,
    },
    plan::{WeightLayout, WeightSource},
    tensor::{
        Floats, Tensor,
        safetensors::{Dtype, SafeFile},
    },
};

#[test]
fn a_file_of_diffusers_and_peft_adds_what_peft_adds() {
    let modules = fixture_modules();
    let lora = Lora::open(fixture("peft.safetensors"), "unet", &modules).unwrap();
    let alphas: std::collections::BTreeSet<String> =
        lora.layers.values().map(|l| format!("{} of {}", l.alpha, l.rank())).collect();
    assert_eq!(alphas.into_iter().collect::<Vec<_>>(), ["1.5 of 2", "3 of 2", "6 of 4"]);
    let added = SafeFile::open(fixture("added.safetensors")).unwrap();
    let mut convolutions = 0;
    for name in added.entries().keys() {
        let want = added.f32(name).unwrap();
        let got = delta(&lora.layers[&format!("unet.{name}")], 1.0).unwrap();
        assert_eq!(got.dims, want.dims, "{name}");
        convolutions += usize::from(got.dims.len() == 4);
        // The factors were rounded to half precision in the file, not in the reference.
        let norm = |d: &[f32]| d.iter().map(|x| f64::from(x * x)).sum::<f64>().sqrt();
        let off: Vec<f32> = got.data.iter().zip(&want.data).map(|(a, b)| a - b).collect();
        assert!(norm(&off) < 1e-3 * norm(&want.data), "{name}: {}", norm(&off));
    }
    assert!(convolutions > 0 && added.entries().len() > 20);
}

fn layer(module: &str, out: usize, inner: &[usize], rank: usize, alpha: f32) -> Layer {
    let mut down = vec![rank];
    down.extend(inner);
    let up = if inner.len() == 3 { vec![out, rank, 1, 1] } else { vec![out, rank] };
    Layer::new(module, &wave(5, &down), &wave(9, &up), alpha, Dtype::F32).unwrap()
}

#[test]
fn a_merged_weight_is_the_base_plus_scale_times_up_times_down() {
    for inner in [vec![7], vec![3, 3, 2]] {
        let layer = layer("unet.conv_in", 4, &inner, 3, 1.5);
        let mut dims = vec![4];
        dims.extend(&inner);
        let base = wave(2, &dims);
        let mut merged = base.clone();
        merge(&mut merged, &layer, 0.8).unwrap();
        let (down, up) = (layer.down.to_tensor().unwrap().data, layer.up.to_tensor().unwrap().data);
        let cols: usize = inner.iter().product();
        for i in 0..4 * cols {
            let (o, c) = (i / cols, i % cols);
            let sum: f64 =
                (0..3).map(|r| f64::from(up[o * 3 + r]) * f64::from(down[r * cols + c])).sum();
            let want = f64::from(base.data[i]) + 0.8 * 0.5 * sum;
            assert!((f64::from(merged.data[i]) - want).abs() < 1e-6, "{i}");
        }
        let mut other = wave(2, &[5, 7]);
        assert!(matches!(merge(&mut other, &layer, 1.0), Err(Error::Weights { .. })));
    }
}

#[test]
fn extraction_recovers_a_change_of_that_rank_and_is_the_best_of_a_lower_one() {
    for inner in [vec![9], vec![2, 3, 3]] {
        let change = delta(&layer("unet.conv_in", 6, &inner, 3, 2.0), 1.0).unwrap();
        let norm = |t: &Tensor| t.data.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let error = |rank: usize| {
            let found = extract("unet.conv_in", &change, rank, Dtype::F32).unwrap();
            assert_eq!((found.rank(), found.alpha), (rank, rank as f32));
            let back = delta(&found, 1.0).unwrap();
            assert_eq!(back.dims, change.dims);
            norm(&Tensor {
                data: back.data.iter().zip(&change.data).map(|(a, b)| a - b).collect(),
                ..change.clone()
            })
        };
        assert!(error(3) < 1e-5 * norm(&change));
        let cols: usize = inner.iter().product();
        let matrix = nalgebra::DMatrix::from_row_iterator(
            6,
            cols,
            change.data.iter().map(|x| f64::from(*x)),
        );
        let values = matrix.singular_values();
        let best = values.iter().skip(1).map(|v| v * v).sum::<f64>().sqrt();
        assert!((error(1) - best).abs() < 1e-5 * norm(&change));
        assert!(extract("unet.conv_in", &change, 0, Dtype::F32).is_err());
        assert!(extract("unet.conv_in", &change, 7, Dtype::F32).is_err());
    }
}

struct Fixed(Tensor);

impl WeightSource for Fixed {
    fn get(
        &self,
        name: &str,
        dims: &[usize],
        layout: WeightLayout,
    ) -> Result<Option<Floats>, Error> {
        let known = name == "unet.conv_in.weight";
        Ok(known.then(|| layout.to_runtime(dims, self.0.data.clone()).into()))
    }
}

#[test]
fn several_adapters_are_numbered_scaled_and_folded_in_order() {
    let (first, second) = (
        layer("unet.conv_in", 4, &[3, 3, 2], 3, 1.5),
        layer("unet.conv_in", 4, &[3, 3, 2], 2, 4.0),
    );
    let one = |l: &Layer| Lora::from_layers([l.clone()]);
    let loras = Loras::new(vec![(one(&first), 0.5), (Lora::default(), 1.0), (one(&second), -1.0)]);
    let adapters = loras.adapters();
    let scales: Vec<(usize, f32)> =
        adapters.at("unet.conv_in").iter().map(|a| (a.rank, a.scale)).collect();
    assert_eq!(scales, [(3, 0.25), (2, -2.0)]);
    let a = loras
        .get(&down_name("unet.conv_in", 1), &[2, 3, 2, 3], WeightLayout::Conv)
        .unwrap()
        .unwrap();
    let stored = second.down.to_tensor().unwrap();
    // Rank 1, row 1, column 1, input 2 of [r, kh, kw, I] and of [r, I, kh, kw].
    assert_eq!(a[((3 + 1) * 2 + 1) * 3 + 2], stored.data[((3 + 2) * 3 + 1) * 2 + 1]);
    assert!(
        loras.get(&up_name("unet.conv_in", 2), &[4, 2], WeightLayout::Conv1x1).unwrap().is_none()
    );
    assert!(loras.get(&up_name("unet.conv_in", 1), &[4, 3], WeightLayout::Conv1x1).is_err());

    let base = Fixed(wave(2, &[4, 3, 3, 2]));
    let merged = Merged { base: &base, loras: &loras };
    let got =
        merged.get("unet.conv_in.weight", &[4, 3, 2, 3], WeightLayout::Conv).unwrap().unwrap();
    let mut want = base.0.clone();
    merge(&mut want, &first, 0.5).unwrap();
    merge(&mut want, &second, -1.0).unwrap();
    assert_eq!(*got, WeightLayout::Conv.to_runtime(&[4, 3, 2, 3], want.data));
    assert!(merged.get("unet.other.weight", &[1], WeightLayout::Dense).unwrap().is_none());
    // only what no adapter changes may come from the base as it is stored there
    assert!(merged.keeper("unet.conv_in.weight").is_none());
    assert!(merged.keeper("unet.other.weight").is_some());
}

#[test]
fn a_scaled_adapter_adds_as_much_as_one_of_that_strength() {
    let whole = layer("unet.conv_in", 4, &[3, 3, 2], 3, 1.5);
    let half = Lora::from_layers([whole.clone()]).scaled(0.5);
    let (got, want) = (delta(&half.layers["unet.conv_in"], 1.0), delta(&whole, 0.5));
    assert_eq!(got.unwrap().data, want.unwrap().data);
}

#[test]
fn text_encoders_are_numbered_where_the_model_has_two() {
    let path = "text_model.encoder.layers.0.self_attn.q_proj";
    let names = |components: &[&str]| {
        let layers = components.iter().map(|c| layer(&format!("{c}.{path}"), 4, &[4], 2, 2.0));
        let lora = Lora::from_layers(layers);
        let (tensors, _) = lora.export(Convention::Kohya, Modules::standard()).unwrap();
        let ups = tensors.into_keys().filter(|n| n.ends_with(".lora_up.weight"));
        ups.map(|n| n.split("_text_model").next().unwrap().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(&["text_encoder"]), ["lora_te"]);
    assert_eq!(names(&["text_encoder", "text_encoder_2"]), ["lora_te1", "lora_te2"]);
}
