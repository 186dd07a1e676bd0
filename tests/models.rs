//! The published base models from their configurations alone: no weights, no files.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use selvedge::{
    error::Result,
    lora::{Adapter, Adapters},
    models::{
        builtin,
        clip::{TextConfig, TextInputs, text_encoder},
        unet::{UnetConfig, UnetInputs, unet},
        vae::{VaeConfig, decoder, encoder},
    },
    nn::Net,
    plan::{ParamInfo, Pass, PlanOptions, Recorder},
    tensor::Spec,
};
use std::time::Instant;

fn count(params: &[ParamInfo]) -> usize {
    params.iter().map(|p| p.dims.iter().product::<usize>()).sum()
}

fn record_unet(model: &str, adapters: &Adapters, latent: usize) -> Result<Vec<ParamInfo>> {
    let config = UnetConfig::from_json(&builtin(model, "unet")?)?;
    let mut rec = Recorder::new();
    let context = config.context_dim().unwrap_or(0);
    let extra = config.text_time;
    let inputs = UnetInputs {
        sample: rec.input("sample", Spec::f32(&[1, latent, latent, config.in_channels])),
        timestep: rec.input("timestep", Spec::f32(&[1])),
        context: rec.input("encoder_hidden_states", Spec::f32(&[1, 77, context])),
        text_embeds: extra.map(|e| rec.input("text_embeds", Spec::f32(&[1, e.pooled_dim()]))),
        time_ids: extra.map(|_| rec.input("time_ids", Spec::f32(&[1, 6]))),
    };
    Net::new(&mut rec, adapters).within("unet", |net| unet(net, &config, &inputs))?;
    Ok(rec.params())
}

#[test]
fn unets_have_the_published_number_of_parameters() {
    let none = Adapters::new();
    for (model, want) in [("sdxl", 2_567_463_684), ("sd15", 859_520_964), ("sd21", 865_910_724)] {
        assert_eq!(count(&record_unet(model, &none, 64).unwrap()), want, "{model}");
    }
}

#[test]
fn full_sdxl_records_in_less_than_a_second() {
    let start = Instant::now();
    record_unet("sdxl", &Adapters::new(), 128).unwrap();
    assert!(start.elapsed().as_secs_f64() < 1.0, "{:?}", start.elapsed());
}

#[test]
fn attention_adapters_of_rank_32_have_46_448_640_parameters() {
    let plain = record_unet("sdxl", &Adapters::new(), 64).unwrap();
    let target = |path: &str| {
        path.contains(".attn")
            && ["to_q", "to_k", "to_v", "to_out.0"].iter().any(|t| path.ends_with(t))
    };
    let adapters = Adapters::on(&plain, Adapter { rank: 32, scale: 1.0 }, target);
    assert_eq!(adapters.len(), 560);
    let adapted = record_unet("sdxl", &adapters, 64).unwrap();
    assert_eq!(count(&adapted) - count(&plain), 46_448_640);
    assert!(adapters.unused("unet", &adapted).is_empty());
}

#[test]
fn the_autoencoder_has_the_published_number_of_parameters() {
    let config = VaeConfig::from_json(&builtin("sdxl", "vae").unwrap()).unwrap();
    let (mut rec, none) = (Recorder::new(), Adapters::new());
    let image = rec.input("image", Spec::f32(&[1, 64, 64, 3]));
    let latent = rec.input("latent", Spec::f32(&[1, 8, 8, 4]));
    let mut net = Net::new(&mut rec, &none);
    let moments = net.within("vae", |net| encoder(net, &config, image)).unwrap();
    let picture = net.within("vae", |net| decoder(net, &config, latent)).unwrap();
    assert_eq!(net.dims(moments), [1, 8, 8, 8]);
    assert_eq!(net.dims(picture), [1, 64, 64, 3]);
    assert_eq!(count(&rec.params()), 83_653_863);
}

#[test]
fn text_encoders_have_the_published_number_of_parameters() {
    for (component, want) in [("text_encoder", 123_060_480), ("text_encoder_2", 694_659_840)] {
        let config = TextConfig::from_json(&builtin("sdxl", component).unwrap()).unwrap();
        let (mut rec, none) = (Recorder::new(), Adapters::new());
        let ids = rec.input("ids", Spec::i32(&[2, 77]));
        let rows = Some(rec.input("rows", Spec::i32(&[2])));
        let mut net = Net::new(&mut rec, &none);
        let inputs = TextInputs { ids, rows, learned: None, padding: None };
        net.within(component, |net| text_encoder(net, &config, &inputs)).unwrap();
        assert_eq!(count(&rec.params()), want, "{component}");
    }
}

#[test]
fn a_configuration_of_another_family_is_refused_by_key_and_value() {
    let cases = [
        ("class_embed_type", serde_json::json!("timestep")),
        ("resnet_time_scale_shift", serde_json::json!("scale_shift")),
        ("act_fn", serde_json::json!("mish")),
        ("encoder_hid_dim", serde_json::json!(1024)),
        ("num_attention_heads", serde_json::json!([1, 2])),
        ("addition_embed_type", serde_json::json!("image")),
        ("down_block_types", serde_json::json!(["AttnDownBlock2D", "DownBlock2D", "DownBlock2D"])),
        ("a_new_key", serde_json::json!(true)),
    ];
    for (key, value) in cases {
        let mut config = builtin("sdxl", "unet").unwrap();
        config[key] = value.clone();
        let text = UnetConfig::from_json(&config).unwrap_err().to_string();
        assert!(text.contains(key) && text.contains(&value.to_string()), "{key}: {text}");
    }
}

#[test]
fn a_wrong_text_width_is_an_error_that_names_the_input() {
    let config = UnetConfig::from_json(&builtin("sd15", "unet").unwrap()).unwrap();
    let (mut rec, none) = (Recorder::new(), Adapters::new());
    let inputs = UnetInputs {
        sample: rec.input("sample", Spec::f32(&[1, 8, 8, 4])),
        timestep: rec.input("timestep", Spec::f32(&[1])),
        context: rec.input("text", Spec::f32(&[1, 77, 1024])),
        text_embeds: None,
        time_ids: None,
    };
    let error = unet(&mut Net::new(&mut rec, &none), &config, &inputs).unwrap_err().to_string();
    assert!(error.contains("encoder_hidden_states") && error.contains("768"), "{error}");
}

#[test]
fn the_work_of_full_sdxl_is_the_published_one() {
    let plain = record_unet("sdxl", &Adapters::new(), 64).unwrap();
    let target = |path: &str| {
        path.contains(".attn")
            && ["to_q", "to_k", "to_v", "to_out.0"].iter().any(|t| path.ends_with(t))
    };
    let adapters = Adapters::on(&plain, Adapter { rank: 32, scale: 1.0 }, target);
    let mut rec = Recorder::new();
    rec.train_if(|name| name.contains(".lora_"));
    let config = UnetConfig::from_json(&builtin("sdxl", "unet").unwrap()).unwrap();
    let inputs = UnetInputs {
        sample: rec.input("sample", Spec::f32(&[1, 128, 128, 4])),
        timestep: rec.input("timestep", Spec::f32(&[1])),
        context: rec.input("context", Spec::f32(&[1, 77, 2048])),
        text_embeds: Some(rec.input("text_embeds", Spec::f32(&[1, 1280]))),
        time_ids: Some(rec.input("time_ids", Spec::f32(&[1, 6]))),
    };
    let mut net = Net::new(&mut rec, &adapters);
    let out = net.within("unet", |net| unet(net, &config, &inputs)).unwrap();
    let options = PlanOptions { pass: Pass::Seeded, ..PlanOptions::default() };
    let summary = rec.plan(&[("sample", out)], options).unwrap().summary();
    assert_eq!(summary.trainable_parameters, 46_448_640);
    let step = summary.forward_flop + summary.backward_flop;
    println!("{:.3e} forward, {step:.3e} a step", summary.forward_flop);
    assert!((summary.forward_flop / 6.76e12 - 1.0).abs() < 0.03, "{:.3e}", summary.forward_flop);
    assert!((step / 14.7e12 - 1.0).abs() < 0.03, "{step:.3e}");
}
