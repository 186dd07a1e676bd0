//! Adapter files: every convention reads the same, what is written is read back bit for bit.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use selvedge::{
    cli::{convert, export},
    error::Error,
    lora::{
        Convention, Layer, Lora, LoraFile, Loras, Merged, Modules, delta, down_name, extract,
        merge, up_name,
    },
    models::checkpoint::{Checkpoint, Component},
    plan::{Layout, WeightSource},
    tensor::{
        Tensor,
        safetensors::{Dtype, Raw, SafeFile},
        write_safetensors,
    },
};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

const Q: &str = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q";
const OUT: &str = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0";
const TEXT: &str = "text_model.encoder.layers.3.self_attn.q_proj";

fn wave(seed: usize, dims: &[usize]) -> Tensor {
    Tensor::from_fn(dims, |i| ((seed * 131 + i * 17) % 97) as f32 / 61.0 - 0.7)
}

fn pair(seed: usize, dtype: Dtype) -> (Raw, Raw) {
    let (down, up) = (wave(seed, &[2, 6]), wave(seed + 1, &[5, 2]));
    (Raw::rounded(&[2, 6], &down.data, dtype), Raw::rounded(&[5, 2], &up.data, dtype))
}

type Tensors = Vec<(String, Raw)>;

fn save(path: &Path, tensors: &Tensors, metadata: &[(&str, &str)]) {
    let metadata = metadata.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    write_safetensors(path, tensors.iter().map(|(n, r)| (n.as_str(), r)), &metadata).unwrap();
}

fn read(tensors: &Tensors, metadata: &[(&str, &str)]) -> Result<Lora, Error> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lora.safetensors");
    save(&path, tensors, metadata);
    Lora::open(&path, "unet", Modules::standard())
}

/// The keys of one pair: what stands before `down` and `up`, and the two words.
fn keyed(stem: &str, down: &str, up: &str, seed: usize) -> Tensors {
    let (d, u) = pair(seed, Dtype::F16);
    vec![(format!("{stem}{down}"), d), (format!("{stem}{up}"), u)]
}

/// The same three layers in every family of names.
fn families() -> Vec<(&'static str, Tensors)> {
    let three = |stems: [String; 3], down: &str, up: &str| -> Tensors {
        stems.iter().enumerate().flat_map(|(i, s)| keyed(s, down, up, i * 10)).collect()
    };
    let dotted = |unet: &str, text: &str| {
        [format!("{unet}{Q}"), format!("{unet}{OUT}"), format!("{text}{TEXT}")]
    };
    let flat = |p: &str| p.replace('.', "_");
    let mut diffusers =
        three(dotted("unet.", "text_encoder."), ".lora.down.weight", ".lora.up.weight");
    for (name, _) in diffusers.iter_mut().filter(|(n, _)| n.starts_with("text")) {
        *name = name.replace(".lora.", ".lora_linear_layer.");
    }
    let old = |p: &str| {
        p.replace("attn1.", "attn1.processor.")
            .replace(".0_lora", "_lora")
            .replace("to_out.0", "to_out")
    };
    let mut processors = three(
        [
            format!("unet.{}", old(Q)),
            old(OUT),
            "text_encoder.text_model.encoder.layers.3.self_attn.to_q".into(),
        ],
        "_lora.down.weight",
        "_lora.up.weight",
    );
    processors.reverse();
    let kohya = |q: &str, out: &str| {
        let stems = [
            format!("lora_unet_{}", flat(q)),
            format!("lora_unet_{}", flat(out)),
            format!("lora_te1_{}", flat(TEXT)),
        ];
        three(stems, ".lora_down.weight", ".lora_up.weight")
    };
    let sgm = |p: &str| p.replace("down_blocks.1.attentions.0", "input_blocks.4.1");
    let native = [
        format!("diffusion_model.{}", sgm(Q)),
        format!("diffusion_model.{}", sgm(OUT)),
        format!("lora_te_{}", flat(TEXT)),
    ];
    vec![
        ("diffusers", diffusers),
        (
            "peft in diffusers",
            three(dotted("unet.", "text_encoder."), ".lora_A.weight", ".lora_B.weight"),
        ),
        ("bare paths", three(dotted("", ""), ".lora_A.weight", ".lora_B.weight")),
        ("attention processors", processors),
        (
            "raw peft",
            three(
                dotted("base_model.model.", "base_model.model."),
                ".lora_A.default.weight",
                ".lora_B.default.weight",
            ),
        ),
        ("kohya, diffusers path", kohya(Q, OUT)),
        ("kohya, original path", kohya(&sgm(Q), &sgm(OUT))),
        (
            "model's own names",
            three(native, ".lora_up.weight", ".lora_down.weight").into_iter().map(swap).collect(),
        ),
    ]
}

/// `three` was told the words the wrong way round on purpose: up first in the file's order.
fn swap((name, raw): (String, Raw)) -> (String, Raw) {
    let other = match name.strip_suffix(".lora_up.weight") {
        Some(stem) => format!("{stem}.lora_down.weight"),
        None => name.replace(".lora_down.weight", ".lora_up.weight"),
    };
    (other, raw)
}

#[test]
fn every_family_of_names_reads_as_the_same_layers() {
    for (family, tensors) in families() {
        let lora = read(&tensors, &[]).unwrap_or_else(|e| panic!("{family}: {e}"));
        let names: Vec<&str> = lora.layers.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [format!("text_encoder.{TEXT}"), format!("unet.{OUT}"), format!("unet.{Q}")],
            "{family}"
        );
        for (module, seed) in [
            (format!("unet.{Q}"), 0),
            (format!("unet.{OUT}"), 10),
            (format!("text_encoder.{TEXT}"), 20),
        ] {
            let layer = &lora.layers[&module];
            assert_eq!(
                (layer.down.clone(), layer.up.clone()),
                pair(seed, Dtype::F16),
                "{family}: {module}"
            );
            assert_eq!(layer.alpha, 2.0, "{family}: no alpha means the rank");
        }
    }
}

#[test]
fn alpha_comes_from_the_file_or_from_pefts_description_and_zero_means_the_rank() {
    let mut kohya = keyed(
        &format!("lora_unet_{}", Q.replace('.', "_")),
        ".lora_down.weight",
        ".lora_up.weight",
        0,
    );
    let alpha = format!("lora_unet_{}.alpha", Q.replace('.', "_"));
    for (stored, want) in [
        (Raw::f32(&[], &[0.5]), 0.5),
        (Raw::rounded(&[], &[8.0], Dtype::F16), 8.0),
        (Raw::f32(&[], &[0.0]), 2.0),
    ] {
        kohya.push((alpha.clone(), stored));
        let layer = read(&kohya, &[]).unwrap().layers[&format!("unet.{Q}")].clone();
        assert_eq!((layer.alpha, layer.scale()), (want, want / 2.0));
        kohya.pop();
    }
    let peft = keyed(&format!("unet.{Q}"), ".lora_A.weight", ".lora_B.weight", 0);
    for (json, want) in [
        (r#"{"unet.r": 2, "unet.lora_alpha": 7}"#, 7.0),
        (r#"{"unet.r": 2, "unet.lora_alpha": 7, "unet.alpha_pattern": {"attn1.to_q": 3}}"#, 3.0),
        (r#"{"unet.lora_alpha": 7, "unet.alpha_pattern": {"attn2.to_q": 3}}"#, 7.0),
        (r#"{"unet.lora_alpha": 7, "unet.use_rslora": true}"#, 7.0 * 2f32.sqrt()),
        (r#"{"text_encoder.lora_alpha": 7}"#, 2.0),
    ] {
        let lora = read(&peft, &[("lora_adapter_metadata", json)]).unwrap();
        assert_eq!(lora.layers[&format!("unet.{Q}")].alpha, want, "{json}");
    }
    let raw = keyed(&format!("base_model.model.{Q}"), ".lora_A.weight", ".lora_B.weight", 0);
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("adapter_config.json"), r#"{"r": 2, "lora_alpha": 5}"#).unwrap();
    save(&dir.path().join("adapter_model.safetensors"), &raw, &[]);
    let lora =
        Lora::open(dir.path().join("adapter_model.safetensors"), "unet", Modules::standard())
            .unwrap();
    assert_eq!(lora.layers[&format!("unet.{Q}")].alpha, 5.0);
}

#[test]
fn other_kinds_of_adapters_are_refused_by_name() {
    let stem = "lora_unet_down_blocks_0_resnets_0_conv1";
    for (key, kind) in [
        ("hada_w1_a", "LoHa"),
        ("lokr_w1", "LoKr"),
        ("dora_scale", "DoRA"),
        ("lora_mid.weight", "Tucker"),
        ("diff", "full differences"),
        ("diff_b", "full differences"),
    ] {
        let mut tensors = keyed(stem, ".lora_down.weight", ".lora_up.weight", 0);
        tensors.push((format!("{stem}.{key}"), Raw::f32(&[1], &[0.0])));
        let error = read(&tensors, &[]).unwrap_err();
        assert!(matches!(error, Error::Format { .. }), "{error}");
        assert!(error.to_string().contains(kind) && error.to_string().contains(stem), "{error}");
    }
    let positional = vec![("unet:0:down".to_string(), Raw::f32(&[1], &[0.0]))];
    assert!(read(&positional, &[]).unwrap_err().to_string().contains("positional"));
    let peft = keyed(&format!("unet.{Q}"), ".lora_A.weight", ".lora_B.weight", 0);
    let dora = read(&peft, &[("lora_adapter_metadata", r#"{"unet.use_dora": true}"#)]);
    assert!(dora.unwrap_err().to_string().contains("DoRA"));
    assert!(matches!(read(&peft, &[("lora_adapter_metadata", "[")]), Err(Error::Format { .. })));
}

#[test]
fn unknown_missing_and_misshaped_layers_come_in_one_error() {
    let mut tensors = keyed(&format!("unet.{Q}"), ".lora_A.weight", ".lora_B.weight", 0);
    tensors.truncate(1);
    tensors.push((format!("unet.{OUT}.lora_A.weight"), Raw::f32(&[2, 6], &[0.0; 12])));
    tensors.push((format!("unet.{OUT}.lora_B.weight"), Raw::f32(&[5, 3], &[0.0; 15])));
    tensors.push(("unet.somewhere.else.lora_A.weight".into(), Raw::f32(&[2, 6], &[0.0; 12])));
    tensors.push((
        "lora_unet_mid_block_attentions_0_nothing.lora_down.weight".into(),
        Raw::f32(&[1], &[0.0]),
    ));
    match read(&tensors, &[]).unwrap_err() {
        Error::Weights { missing, unknown, misshaped, .. } => {
            assert_eq!((missing.len(), unknown.len(), misshaped.len()), (1, 2, 1));
            assert!(missing[0].contains(Q) && misshaped[0].contains(OUT));
        }
        other => panic!("{other}"),
    }
    assert!(matches!(read(&vec![], &[]), Err(Error::Weights { .. })));
    let mut twice = keyed(&format!("unet.{Q}"), ".lora_A.weight", ".lora_B.weight", 0);
    twice.extend(keyed(&format!("unet.{Q}"), ".lora.down.weight", ".lora.up.weight", 0));
    assert!(matches!(read(&twice, &[]), Err(Error::Data { .. })));
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/lora").join(name)
}

fn fixture_modules() -> Modules {
    let shapes: BTreeMap<String, Vec<usize>> =
        serde_json::from_slice(&fs::read(fixture("modules.json")).unwrap()).unwrap();
    Modules::of(shapes.iter().map(|(n, d)| (n.as_str(), d.as_slice())))
}

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

#[test]
fn every_conversion_of_the_fixture_comes_back_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let modules = fixture_modules();
    let first = Lora::open(fixture("peft.safetensors"), "unet", &modules).unwrap();
    let mut last = first.clone();
    for to in [
        Convention::Kohya,
        Convention::Comfy,
        Convention::Peft,
        Convention::Comfy,
        Convention::Kohya,
    ] {
        let path = dir.path().join("x.safetensors");
        last.save(&path, to, &modules).unwrap();
        last = Lora::open(&path, "unet", &modules).unwrap();
        assert_eq!(last.layers.len(), first.layers.len());
        assert!(first.layers.iter().all(|(n, l)| l.same_bits(&last.layers[n])), "{to:?}");
    }
    let (tensors, metadata) = first.export(Convention::Kohya, &modules).unwrap();
    assert!(
        tensors.contains_key("lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_k.alpha")
    );
    assert!(tensors.contains_key("lora_unet_middle_block_0_in_layers_2.lora_down.weight"));
    assert_eq!(metadata["ss_base_model_version"], "sdxl_base_v1-0");
    assert_eq!(metadata["ss_network_dim"], "Dynamic");
    let (tensors, _) = first.export(Convention::Comfy, &modules).unwrap();
    assert!(tensors.contains_key(
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_1_attn2_to_k.lora_up.weight"
    ));
}

#[test]
fn a_layer_of_another_shape_than_the_base_is_refused() {
    let modules = fixture_modules();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    save(&path, &keyed(&format!("unet.{Q}"), ".lora_A.weight", ".lora_B.weight", 0), &[]);
    let error = Lora::open(&path, "unet", &modules).unwrap_err();
    assert!(error.to_string().contains("adapts [5, 6], the base has [16, 16]"), "{error}");
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
        layout: Layout,
    ) -> Result<Option<Arc<Vec<f32>>>, Error> {
        let known = name == "unet.conv_in.weight";
        Ok(known.then(|| Arc::new(layout.to_runtime(dims, self.0.data.clone()))))
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
    let a = loras.get(&down_name("unet.conv_in", 1), &[2, 3, 2, 3], Layout::Conv).unwrap().unwrap();
    let stored = second.down.to_tensor().unwrap();
    // Rank 1, row 1, column 1, input 2 of [r, kh, kw, I] and of [r, I, kh, kw].
    assert_eq!(a[((3 + 1) * 2 + 1) * 3 + 2], stored.data[((3 + 2) * 3 + 1) * 2 + 1]);
    assert!(loras.get(&up_name("unet.conv_in", 2), &[4, 2], Layout::Conv1x1).unwrap().is_none());
    assert!(loras.get(&up_name("unet.conv_in", 1), &[4, 3], Layout::Conv1x1).is_err());

    let base = Fixed(wave(2, &[4, 3, 3, 2]));
    let merged = Merged { base: &base, loras: &loras };
    let got = merged.get("unet.conv_in.weight", &[4, 3, 2, 3], Layout::Conv).unwrap().unwrap();
    let mut want = base.0.clone();
    merge(&mut want, &first, 0.5).unwrap();
    merge(&mut want, &second, -1.0).unwrap();
    assert_eq!(*got, Layout::Conv.to_runtime(&[4, 3, 2, 3], want.data));
    assert!(merged.get("unet.other.weight", &[1], Layout::Dense).unwrap().is_none());
}

#[test]
fn an_adapter_file_knows_its_own_keys() {
    let (_, tensors) = families().remove(6);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    save(&path, &tensors, &[]);
    let file = LoraFile::open(&path, "unet").unwrap();
    let key = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_up.weight";
    assert_eq!(file.stored_name(&up_name(&format!("unet.{Q}"), 0)), Some(key));
    assert_eq!(file.adapters().len(), 3);
}

fn convert_args(
    input: PathBuf,
    output: PathBuf,
    to: Convention,
    base: Option<&str>,
) -> convert::ConvertArgs {
    let base = base.map(PathBuf::from);
    convert::ConvertArgs {
        what: convert::What::Lora(convert::LoraArgs { input, output, to, base, json: false }),
    }
}

#[test]
fn convert_says_ok_and_leaves_nothing_when_the_input_is_bad() {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in.safetensors"), dir.path().join("out.safetensors"));
    save(&input, &families().remove(1).1, &[("modelspec.trigger_phrase", "olis")]);
    let code = convert::run(&convert_args(input.clone(), output.clone(), Convention::Kohya, None))
        .unwrap();
    assert_eq!(code, 0);
    assert_eq!(SafeFile::open(&output).unwrap().metadata()["modelspec.trigger_phrase"], "olis");
    fs::remove_file(&output).unwrap();
    let wrong_base =
        convert::run(&convert_args(input.clone(), output.clone(), Convention::Kohya, Some("nano")));
    assert!(matches!(wrong_base, Err(Error::Weights { .. })));
    fs::write(&input, b"12345678").unwrap();
    assert!(convert::run(&convert_args(input, output.clone(), Convention::Peft, None)).is_err());
    assert!(!output.exists());
}

#[test]
fn the_exported_base_is_the_embedded_one_and_a_used_folder_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("nano");
    let args = |force| export::ExportArgs { model: export::Embedded::Nano, dir: to.clone(), force };
    assert_eq!(export::run(&args(false)).unwrap(), 0);
    assert!(matches!(export::run(&args(false)), Err(Error::Config { .. })));
    assert_eq!(export::run(&args(true)).unwrap(), 0);
    for component in
        [Component::Unet, Component::Vae, Component::TextEncoder, Component::TextEncoder2]
    {
        let (a, b) = (
            Checkpoint::open("nano", component).unwrap(),
            Checkpoint::open(&to, component).unwrap(),
        );
        assert_eq!(a.config(), b.config());
        for (name, _) in a.shapes() {
            assert_eq!(a.tensor(name).unwrap(), b.tensor(name).unwrap(), "{name}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_adapter_survives_any_chain_of_conventions(
        picks in proptest::collection::btree_map(0usize..9, (1usize..5, 0.01f32..64.0, any::<bool>()), 1..9),
        chain in proptest::collection::vec(0usize..3, 1..4),
    ) {
        let names = [
            "unet.mid_block.attentions.0.transformer_blocks.3.attn2.to_v",
            "unet.up_blocks.2.resnets.1.conv_shortcut",
            "unet.down_blocks.0.downsamplers.0.conv",
            "unet.up_blocks.0.upsamplers.0.conv",
            "unet.time_embedding.linear_2",
            "unet.up_blocks.1.attentions.2.transformer_blocks.0.ff.net.0.proj",
            "text_encoder.text_model.encoder.layers.11.mlp.fc1",
            "text_encoder_2.text_model.encoder.layers.31.self_attn.out_proj",
            "unet.down_blocks.2.attentions.1.proj_in",
        ];
        let first = Lora::from_layers(picks.iter().map(|(i, (rank, alpha, half))| {
            let dtype = if *half { Dtype::BF16 } else { Dtype::F32 };
            let (down, up) = (wave(*i, &[*rank, 6]), wave(i + 3, &[4, *rank]));
            Layer::new(names[*i], &down, &up, *alpha, dtype).unwrap()
        }));
        let dir = tempfile::tempdir().unwrap();
        let mut last = first.clone();
        for i in chain {
            let to = [Convention::Peft, Convention::Kohya, Convention::Comfy][i];
            last.save(dir.path().join("x.safetensors"), to, Modules::standard()).unwrap();
            last = Lora::open(dir.path().join("x.safetensors"), "unet", Modules::standard()).unwrap();
            prop_assert_eq!(last.layers.len(), first.layers.len());
            prop_assert!(first.layers.iter().all(|(n, l)| l.same_bits(&last.layers[n])));
        }
    }
}
