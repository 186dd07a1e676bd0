//! The tokenizer of CLIP: lower-cased byte-level pair encoding, from a checkpoint's files or the
//! standard table.

mod bpe;
mod files;

use crate::{
    error::Result,
    models::checkpoint::{Checkpoint, Component, NANO},
};
use bpe::Bpe;
use regex::Regex;
use serde_json::{Value, json};
use std::path::Path;
use unicode_normalization::UnicodeNormalization;

/// Text as a text encoder takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Start, the text, end, padding: exactly the model's length.
    pub ids: Vec<i32>,
    /// Tokens of the text that did not fit; 0 when all of it is there.
    pub truncated: usize,
}

/// A word that is taken out of the text before anything else.
#[derive(Clone, Debug)]
struct Special {
    text: String,
    id: i32,
    /// Looked for after normalization instead of before.
    normalized: bool,
    /// Only where no letter or digit stands beside it.
    whole: bool,
}

impl Special {
    /// Where it stands in `text` first.
    fn find(&self, text: &str) -> Option<usize> {
        let letter = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        let whole = |at: usize| {
            let (before, after) = (&text[..at], &text[at + self.text.len()..]);
            !letter(before.chars().next_back()) && !letter(after.chars().next())
        };
        text.match_indices(&self.text).map(|(at, _)| at).find(|at| !self.whole || whole(*at))
    }
}

/// A CLIP tokenizer.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    bpe: Bpe,
    specials: Vec<Special>,
    bos: i32,
    eos: i32,
    pad: i32,
    max_length: usize,
    /// The words of normalized text; the first two alternatives are split again by `inner`.
    words: Regex,
    inner: Regex,
}

const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+";

impl Tokenizer {
    /// The tokenizer of `encoder` (the first or the second text encoder) of `model`: the files of
    /// its `tokenizer` or `tokenizer_2` folder (`vocab.json` and `merges.txt`, or
    /// `tokenizer.json`), of `model` itself, of the embedded base; for a single file, or where
    /// there are none, the standard table.
    ///
    /// # Errors
    /// [`crate::error::Error::File`] and [`crate::error::Error::Format`] for files that cannot be
    /// used.
    pub fn open(model: impl AsRef<Path>, encoder: Component) -> Result<Self> {
        let model = model.as_ref();
        let inner = if encoder == Component::TextEncoder2 { "tokenizer_2" } else { "tokenizer" };
        if model == Path::new(NANO) {
            return files::embedded(inner);
        }
        for folder in [model.join(inner), model.to_path_buf()] {
            if folder.join("vocab.json").is_file() || folder.join("tokenizer.json").is_file() {
                return files::open(&folder);
            }
        }
        let gelu = || {
            let config = Checkpoint::open(model, encoder).ok()?.config()["hidden_act"].clone();
            Some(config.as_str()? == "gelu")
        };
        let zeros = encoder == Component::TextEncoder2 || gelu().unwrap_or(false);
        if zeros { Self::standard_second() } else { Self::standard() }
    }

    /// The tokenizer whose files (`vocab.json` and `merges.txt`, or `tokenizer.json`) lie in `folder` itself.
    ///
    /// # Errors
    /// [`crate::error::Error::Format`] where there are none; those of the files.
    pub fn of_folder(folder: &Path) -> Result<Self> {
        files::open(folder)
    }

    /// The standard table of 49,408 tokens, 77 long, padded with the end token (the first encoder).
    ///
    /// # Errors
    /// None in a sound build.
    pub fn standard() -> Result<Self> {
        files::standard("<|endoftext|>")
    }

    /// The standard table, padded with token 0 (`!`), as the OpenCLIP encoders of SDXL and SD 2
    /// want it.
    ///
    /// # Errors
    /// None in a sound build.
    pub fn standard_second() -> Result<Self> {
        files::standard("!")
    }

    /// The same tokenizer, with `words` as single tokens of the ids from `first` on, wherever they stand as words of their
    /// own: learned words beside a table of `first` rows.
    pub fn with_words(mut self, words: &[String], first: i32) -> Self {
        let special = |(word, id): (&String, i32)| {
            let text = word.trim().nfc().flat_map(char::to_lowercase).collect();
            Special { text, id, normalized: true, whole: true }
        };
        let words = words.iter().filter(|w| !w.trim().is_empty());
        self.specials.extend(words.zip(first..).map(special));
        self
    }

    /// Text to ids: canonical composition, white space, lower case, words, byte pairs; then start
    /// and end tokens, cut and padded to the model's length.
    pub fn encode(&self, text: &str) -> Encoded {
        let tokens = self.tokens(text);
        let room = self.max_length.saturating_sub(2);
        let mut ids = Vec::with_capacity(self.max_length);
        ids.push(self.bos);
        ids.extend(tokens.iter().take(room));
        ids.push(self.eos);
        ids.resize(self.max_length, self.pad);
        Encoded { ids, truncated: tokens.len().saturating_sub(room) }
    }

    /// The tokens of `text` alone: no start, end, cut or padding.
    pub fn tokens(&self, text: &str) -> Vec<i32> {
        let mut ids = vec![];
        self.outside_specials(text, false, &mut ids, &mut |raw, ids| {
            let normal: String = raw.nfc().flat_map(char::to_lowercase).collect();
            self.outside_specials(&normal, true, ids, &mut |text, ids| self.words(text, ids));
        });
        ids
    }

    /// Whether `word` is one token, so that an identifier stands for itself.
    pub fn is_single_token(&self, word: &str) -> bool {
        matches!(self.tokens(word)[..], [id] if self.bpe.unknown() != Some(id))
    }

    /// Start of text.
    pub fn bos(&self) -> i32 {
        self.bos
    }

    /// End of text, where pooled features are taken.
    pub fn eos(&self) -> i32 {
        self.eos
    }

    /// What fills up.
    pub fn pad(&self) -> i32 {
        self.pad
    }

    /// Ids of every encoded text.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// Number of tokens in the table.
    pub fn vocabulary_len(&self) -> usize {
        self.bpe.len()
    }

    /// The files that transformers' `CLIPTokenizer` reads: name and text.
    pub fn to_files(&self) -> Vec<(&'static str, String)> {
        let name = |id| self.token_text(id).unwrap_or_default();
        let names = [("bos_token", self.bos), ("eos_token", self.eos), ("pad_token", self.pad)];
        let mut special: serde_json::Map<String, Value> =
            names.iter().map(|(key, id)| ((*key).to_string(), json!(name(*id)))).collect();
        special.insert("unk_token".into(), json!(name(self.bpe.unknown().unwrap_or(self.eos))));
        let mut settings = special.clone();
        settings.insert("tokenizer_class".into(), json!("CLIPTokenizer"));
        settings.insert("model_max_length".into(), json!(self.max_length));
        settings.insert("do_lower_case".into(), json!(true));
        settings.insert("add_prefix_space".into(), json!(false));
        settings.insert("errors".into(), json!("replace"));
        vec![
            ("vocab.json", json!(self.bpe.vocabulary()).to_string()),
            ("merges.txt", self.bpe.rules_text()),
            ("special_tokens_map.json", Value::Object(special).to_string()),
            ("tokenizer_config.json", Value::Object(settings).to_string()),
        ]
    }

    /// The text of a token, as the table writes it (`corgi</w>`).
    pub fn token_text(&self, id: i32) -> Option<&str> {
        self.bpe.text(id)
    }

    /// Puts the ids of special words; `body` gets what lies between them.
    fn outside_specials(
        &self,
        mut text: &str,
        normalized: bool,
        ids: &mut Vec<i32>,
        body: &mut dyn FnMut(&str, &mut Vec<i32>),
    ) {
        let specials = || self.specials.iter().filter(|s| s.normalized == normalized);
        loop {
            // The leftmost; of two at one place the longer.
            let next = specials()
                .filter_map(|s| Some((s.find(text)?, s)))
                .min_by_key(|(at, s)| (*at, usize::MAX - s.text.len()));
            let Some((at, special)) = next else {
                return body(text, ids);
            };
            body(&text[..at], ids);
            ids.push(special.id);
            text = &text[at + special.text.len()..];
        }
    }

    fn words(&self, text: &str, ids: &mut Vec<i32>) {
        for word in self.words.find_iter(text).map(|m| m.as_str()) {
            if word.starts_with("<|") && word.ends_with("text|>") {
                self.inner.find_iter(word).for_each(|m| self.bpe.word(m.as_str(), ids));
            } else {
                self.bpe.word(word, ids);
            }
        }
    }
}
