//! The tokenizer of BERT agrees with transformers' BertTokenizer, id by id.
#![allow(clippy::unwrap_used)]

use selvedge::models::wordpiece::WordPiece;
use serde_json::{Value, json};
use std::{fs, path::Path};

fn fixture() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/wordpiece.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A folder with the small vocabulary of the fixture.
fn folder(fixture: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let words: Vec<String> = serde_json::from_value(fixture["vocabulary"].clone()).unwrap();
    fs::write(folder.path().join("vocab.txt"), words.join("\n") + "\n").unwrap();
    folder
}

fn assert_agrees(tokenizer: &WordPiece, fixture: &Value) {
    let texts = fixture["texts"].as_array().unwrap();
    assert!(texts.len() > 200);
    for (i, text) in texts.iter().enumerate() {
        let text = text.as_str().unwrap();
        let numbers = |key: &str| fixture[key][i].clone();
        let tokens: Vec<i32> = serde_json::from_value(numbers("tokens")).unwrap();
        assert_eq!(tokenizer.tokens(text), tokens, "{text:?}");
        let encoded = tokenizer.encode(text, 35);
        assert_eq!(json!(encoded.ids), numbers("ids"), "{text:?}");
        assert_eq!(json!(encoded.mask), numbers("mask"), "{text:?}");
        assert_eq!(encoded.truncated, tokens.len().saturating_sub(33), "{text:?}");
    }
}

#[test]
fn odd_strings_have_the_ids_of_transformers() {
    let fixture = fixture();
    let folder = folder(&fixture);
    assert_agrees(&WordPiece::open(folder.path()).unwrap(), &fixture);
}

/// The one file of the same tokenizer, as the crate tokenizers writes it.
fn whole(fixture: &Value) -> Value {
    let words = fixture["vocabulary"].as_array().unwrap();
    let table = words.iter().enumerate().map(|(i, w)| (w.as_str().unwrap().into(), json!(i)));
    let next = words.len();
    json!({
        "added_tokens": [{"id": next, "content": "[DEC]"}, {"id": next + 1, "content": "[ENC]"}],
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": Value::Object(table.collect())},
    })
}

#[test]
fn the_one_file_is_the_same_tokenizer_and_another_kind_is_named() {
    let fixture = fixture();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let mut json = whole(&fixture);
    fs::write(&path, json.to_string()).unwrap();
    assert_agrees(&WordPiece::open(folder.path()).unwrap(), &fixture);
    json["normalizer"]["lowercase"] = json!(false);
    fs::write(&path, json.to_string()).unwrap();
    let error = WordPiece::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("normalizer.lowercase: false"), "{error}");
}

#[test]
fn a_folder_without_the_vocabulary_is_one_clear_line() {
    let fixture = fixture();
    let refused = |folder: &Path, word: &str| {
        let error = WordPiece::open(folder).unwrap_err().to_string();
        assert!(error.contains(word) && !error.contains('\n'), "{word}: {error}");
    };
    let empty = tempfile::tempdir().unwrap();
    refused(empty.path(), "neither vocab.txt nor tokenizer.json");
    fs::write(empty.path().join("vocab.txt"), "[PAD]\na\n").unwrap();
    refused(empty.path(), "a vocabulary without [UNK]");
    fs::write(empty.path().join("vocab.txt"), [0xFF, 0xFE]).unwrap();
    refused(empty.path(), "UTF-8");
    let cased = folder(&fixture);
    fs::write(cased.path().join("tokenizer_config.json"), r#"{"do_lower_case": false}"#).unwrap();
    refused(cased.path(), "do_lower_case");
}
