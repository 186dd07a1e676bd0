//! The tokenizer agrees with transformers' CLIPTokenizer, id by id.
#![allow(clippy::unwrap_used)]

use selvedge::{
    error::Error,
    models::{checkpoint::Component, tokenizer::Tokenizer},
};
use serde_json::Value;
use std::{fs, path::Path};

fn fixture() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn assert_agrees(tokenizer: &Tokenizer, set: &str) {
    let fixture = fixture();
    let texts = fixture["texts"].as_array().unwrap();
    assert!(texts.len() >= 290);
    for (text, ids) in texts.iter().zip(fixture[set].as_array().unwrap()) {
        let text = text.as_str().unwrap();
        let ids: Vec<i32> = serde_json::from_value(ids.clone()).unwrap();
        assert_eq!(tokenizer.tokens(text), ids, "{set}: {text:?}");
        let room = tokenizer.max_length() - 2;
        let encoded = tokenizer.encode(text);
        assert_eq!(encoded.ids.len(), room + 2);
        assert_eq!(encoded.truncated, ids.len().saturating_sub(room));
        let kept = ids.len().min(room);
        assert_eq!(encoded.ids[0], tokenizer.bos());
        assert_eq!(encoded.ids[1..=kept], ids[..kept]);
        assert_eq!(encoded.ids[kept + 1], tokenizer.eos());
        assert!(encoded.ids[kept + 2..].iter().all(|id| *id == tokenizer.pad()));
    }
}

#[test]
fn the_published_prompt_has_the_published_ids() {
    let first = Tokenizer::standard().unwrap();
    let ids = first.encode("a photo of a olis corgi").ids;
    assert_eq!(ids[..8], [49406, 320, 1125, 539, 320, 49397, 31320, 49407]);
    assert_eq!(ids[8..], [49407; 69]);
    assert_eq!(first.tokens(", simple background."), [267, 4129, 5994, 269]);
    assert_eq!(first.tokens("weimaraner"), [6958, 44732, 528]);
    assert_eq!(first.vocabulary_len(), 49408);
    let second = Tokenizer::standard_second().unwrap();
    assert_eq!(second.encode("corgi").ids[..4], [49406, 31320, 49407, 0]);
}

#[test]
fn the_standard_tokenizers_agree_with_transformers() {
    assert_agrees(&Tokenizer::standard().unwrap(), "first");
    assert_agrees(&Tokenizer::standard_second().unwrap(), "second");
}

#[test]
fn the_tokenizers_of_the_embedded_base_agree_with_transformers() {
    for (encoder, set) in
        [(Component::TextEncoder, "nano/tokenizer"), (Component::TextEncoder2, "nano/tokenizer_2")]
    {
        assert_agrees(&Tokenizer::open("nano", encoder).unwrap(), set);
    }
}

#[test]
fn identifiers_are_single_tokens_and_rare_classes_are_not() {
    let tokenizer = Tokenizer::standard().unwrap();
    for word in ["olis", "hta", "ult", "amg", "lun", "Corgi"] {
        assert!(tokenizer.is_single_token(word), "{word}");
    }
    for word in ["weimaraner", "olis hta", "", "qzxv"] {
        assert!(!tokenizer.is_single_token(word), "{word}");
    }
    assert_eq!(tokenizer.token_text(49397), Some("olis</w>"));
}

#[test]
fn a_checkpoints_own_files_win_and_both_forms_of_them_agree() {
    let dir = tempfile::tempdir().unwrap();
    let nano = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/assets/nano/tokenizer_2");
    let own = dir.path().join("tokenizer_2");
    fs::create_dir(&own).unwrap();
    for name in ["vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"] {
        fs::copy(nano.join(name), own.join(name)).unwrap();
    }
    let split = Tokenizer::open(dir.path(), Component::TextEncoder2).unwrap();
    let vocab: Value = serde_json::from_slice(&fs::read(own.join("vocab.json")).unwrap()).unwrap();
    let merges: Vec<Value> = fs::read_to_string(own.join("merges.txt"))
        .unwrap()
        .lines()
        .skip(1)
        .map(|l| l.split(' ').map(Value::from).collect())
        .collect();
    let whole = serde_json::json!({"model": {"vocab": vocab, "merges": merges}});
    fs::write(own.join("tokenizer.json"), whole.to_string()).unwrap();
    fs::remove_file(own.join("vocab.json")).unwrap();
    fs::remove_file(own.join("merges.txt")).unwrap();
    let whole = Tokenizer::open(dir.path(), Component::TextEncoder2).unwrap();
    let text = "a photo of a red teddy bear wearing a hat!";
    assert_eq!(split.encode(text), whole.encode(text));
    assert_eq!(split.max_length(), 40);
    assert_ne!(split.encode(text), Tokenizer::standard_second().unwrap().encode(text));
}

#[test]
fn damaged_files_are_format_errors_that_name_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Tokenizer::open(dir.path(), Component::TextEncoder).unwrap_err();
    for (vocab, merges, needle) in [
        ("{", Some(""), "vocab.json"),
        ("[1]", Some(""), "vocab.json"),
        ("{\"a\": 1}", None, "merges.txt"),
        ("{\"a\": 1}", Some("a b\n"), "no token"),
        ("{\"a\": 1}", Some(""), "<|startoftext|>"),
    ] {
        fs::write(dir.path().join("vocab.json"), vocab).unwrap();
        let _ = fs::remove_file(dir.path().join("merges.txt"));
        if let Some(merges) = merges {
            fs::write(dir.path().join("merges.txt"), merges).unwrap();
        }
        let error = open();
        assert!(matches!(error, Error::Format { .. }), "{error}");
        assert!(error.to_string().contains(needle), "{error}");
    }
}

#[test]
fn a_long_word_does_not_take_long() {
    let start = std::time::Instant::now();
    let tokenizer = Tokenizer::standard().unwrap();
    assert!(tokenizer.encode(&"ab".repeat(100_000)).truncated > 1000);
    assert!(start.elapsed().as_secs() < 20);
}
