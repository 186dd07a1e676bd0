//! WordPiece, the tokenizer of BERT (uncased): what ImageReward reads prompts with.

use crate::error::{Error, Result};
use regex::Regex;
use serde_json::Value;
use std::{collections::HashMap, fs, path::Path};
use unicode_normalization::UnicodeNormalization;

/// A text as a BERT takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pieces {
    /// `[CLS]`, the text, `[SEP]`, padding: exactly the length asked for.
    pub ids: Vec<i32>,
    /// 1 where there is a token, 0 where there is padding.
    pub mask: Vec<i64>,
    /// Tokens of the text that did not fit; 0 when all of it is there.
    pub truncated: usize,
}

/// The tokenizer of an uncased BERT.
#[derive(Clone, Debug)]
pub struct WordPiece {
    ids: HashMap<String, i32>,
    /// Words that are taken out of the text as they are.
    specials: Vec<(String, i32)>,
    unknown: i32,
    first: i32,
    last: i32,
    pad: i32,
    /// What the normalization takes away, and what stands alone.
    control: Regex,
    accent: Regex,
    punctuation: Regex,
}

/// Tokens with a meaning of their own, as BERT's vocabulary has them.
const SPECIALS: [&str; 5] = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"];

/// The tokens that BLIP, and so ImageReward, puts behind BERT's.
const ADDED: [&str; 2] = ["[DEC]", "[ENC]"];

/// Words with more characters are unknown.
const LONGEST: usize = 100;

impl WordPiece {
    /// Reads `vocab.txt` of `folder`, or `tokenizer.json` of the same tokenizer.
    ///
    /// # Errors
    /// [`Error::Format`] for a folder with neither, a vocabulary without BERT's special tokens, and settings of a
    /// tokenizer that is not that of an uncased BERT.
    pub fn open(folder: &Path) -> Result<Self> {
        let settings = folder.join("tokenizer_config.json");
        if let Some(text) = read(&settings)? {
            let json = parse(&settings, &text)?;
            if json["do_lower_case"] == Value::Bool(false) {
                return Err(bad(&settings, "do_lower_case: false"));
            }
        }
        let (list, whole) = (folder.join("vocab.txt"), folder.join("tokenizer.json"));
        if let Some(text) = read(&list)? {
            let lines = text.lines().map(|l| l.trim_end_matches('\r').to_string());
            return Self::new(lines.zip(0..).collect(), &list);
        }
        match read(&whole)? {
            Some(text) => Self::from_json(&parse(&whole, &text)?, &whole),
            None => Err(Error::Format {
                path: folder.into(),
                found: "neither vocab.txt nor tokenizer.json".into(),
                expected: "the vocabulary of bert-base-uncased, which reads the prompts".into(),
                fix: "copy vocab.txt of bert-base-uncased into the folder".into(),
            }),
        }
    }

    fn from_json(json: &Value, path: &Path) -> Result<Self> {
        let (normal, split, model) = (&json["normalizer"], &json["pre_tokenizer"], &json["model"]);
        let accents = &normal["strip_accents"];
        for (what, right) in [
            ("model.type", model["type"].as_str().is_none_or(|t| t == "WordPiece")),
            ("model.unk_token", model["unk_token"] == SPECIALS[0]),
            ("model.continuing_subword_prefix", model["continuing_subword_prefix"] == "##"),
            ("model.max_input_chars_per_word", model["max_input_chars_per_word"] == LONGEST),
            ("normalizer.type", normal["type"] == "BertNormalizer"),
            ("normalizer.clean_text", normal["clean_text"] == true),
            ("normalizer.handle_chinese_chars", normal["handle_chinese_chars"] == true),
            ("normalizer.strip_accents", accents.is_null() || *accents == true),
            ("normalizer.lowercase", normal["lowercase"] == true),
            ("pre_tokenizer.type", split["type"] == "BertPreTokenizer"),
        ] {
            if !right {
                let at = what.split('.').fold(json, |v, key| &v[key]);
                return Err(bad(path, &format!("{what}: {at}")));
            }
        }
        let id = |v: &Value| v.as_i64().and_then(|n| i32::try_from(n).ok());
        let table = model["vocab"].as_object().into_iter().flatten();
        let added = json["added_tokens"].as_array().into_iter().flatten();
        let added = added.filter_map(|t| Some((t["content"].as_str()?.to_string(), id(&t["id"])?)));
        let ids = table.filter_map(|(t, i)| Some((t.clone(), id(i)?))).chain(added).collect();
        Self::new(ids, path)
    }

    fn new(mut ids: HashMap<String, i32>, path: &Path) -> Result<Self> {
        let special = |name: &&str| {
            let id = ids.get(*name).copied();
            id.ok_or_else(|| bad(path, &format!("a vocabulary without {name}")))
        };
        let own: Vec<i32> = SPECIALS.iter().map(special).collect::<Result<_>>()?;
        let mut specials: Vec<(String, i32)> =
            SPECIALS.iter().zip(&own).map(|(name, id)| ((*name).to_string(), *id)).collect();
        for name in ADDED {
            let next = ids.values().max().copied().unwrap_or(0).saturating_add(1);
            let id = *ids.entry(name.into()).or_insert(next);
            specials.push((name.into(), id));
        }
        let regex = |text: &str| Regex::new(text).map_err(|e| bad(path, &e.to_string()));
        Ok(Self {
            ids,
            specials,
            unknown: own[0],
            first: own[1],
            last: own[2],
            pad: own[3],
            control: regex(r"[\p{Cc}\p{Cf}\p{Co}\x{FFFD}&&[^\t\n\r]]")?,
            accent: regex(r"\p{Mn}")?,
            punctuation: regex(r"[\p{P}$+<=>^`|~]")?,
        })
    }

    /// `text` in exactly `length` tokens: `[CLS]`, what fits of it, `[SEP]`, padding.
    pub fn encode(&self, text: &str, length: usize) -> Pieces {
        let tokens = self.tokens(text);
        let room = length.saturating_sub(2);
        let kept = tokens.len().min(room);
        let mut ids = vec![self.first];
        ids.extend(&tokens[..kept]);
        ids.push(self.last);
        ids.resize(length, self.pad);
        let mask = (0..length).map(|i| i64::from(i < kept + 2)).collect();
        Pieces { ids, mask, truncated: tokens.len() - kept }
    }

    /// The tokens of `text` alone: no start, end, cut or padding.
    pub fn tokens(&self, mut text: &str) -> Vec<i32> {
        let mut ids = vec![];
        loop {
            let found = self.specials.iter().filter_map(|s| Some((text.find(&s.0)?, s)));
            let next = found.min_by_key(|(at, _)| *at);
            let before = next.map_or(text, |(at, _)| &text[..at]);
            for word in self.words(before) {
                self.word(&word, &mut ids);
            }
            let Some((at, (special, id))) = next else { return ids };
            ids.push(*id);
            text = &text[at + special.len()..];
        }
    }

    /// Lower case without accents; white space, punctuation and ideographs separate.
    fn words(&self, text: &str) -> Vec<String> {
        let clean = self.control.replace_all(text, "");
        let mut apart = String::new();
        for c in clean.chars() {
            match ideograph(c) {
                true => apart.extend([' ', c, ' ']),
                false => apart.push(c),
            }
        }
        let plain: String = apart.nfd().collect();
        let plain = self.accent.replace_all(&plain, "");
        let lower: String = plain.chars().flat_map(char::to_lowercase).collect();
        let alone = self.punctuation.replace_all(&lower, " $0 ");
        alone.split_whitespace().map(String::from).collect()
    }

    /// The longest pieces from the left; a word that is not made of pieces is one unknown token.
    fn word(&self, word: &str, out: &mut Vec<i32>) {
        let ends: Vec<usize> =
            word.char_indices().map(|(i, _)| i).skip(1).chain([word.len()]).collect();
        let (mut at, mut pieces) = (0, vec![]);
        while at < word.len() && ends.len() <= LONGEST {
            let ahead = if at == 0 { "" } else { "##" };
            let piece = |end: &usize| {
                let id = self.ids.get(&format!("{ahead}{}", &word[at..*end]))?;
                Some((*end, *id))
            };
            let Some((end, id)) = ends.iter().rev().take_while(|e| **e > at).find_map(piece) else {
                break;
            };
            pieces.push(id);
            at = end;
        }
        match at == word.len() {
            true => out.append(&mut pieces),
            false => out.push(self.unknown),
        }
    }
}

/// The blocks that BERT takes for Chinese.
fn ideograph(c: char) -> bool {
    matches!(u32::from(c),
        0x4E00..=0x9FFF | 0x3400..=0x4DBF | 0x20000..=0x2A6DF | 0x2A700..=0x2B73F
        | 0x2B740..=0x2B81F | 0x2B820..=0x2CEAF | 0xF900..=0xFAFF | 0x2F800..=0x2FA1F)
}

fn read(path: &Path) -> Result<Option<String>> {
    let text = || fs::read(path).map_err(Error::file("read", path));
    let utf8 = |b| String::from_utf8(b).map_err(|_| bad(path, "text that is not UTF-8"));
    path.is_file().then(|| text().and_then(utf8)).transpose()
}

fn parse(path: &Path, text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|e| bad(path, &format!("no JSON ({e})")))
}

fn bad(path: &Path, found: &str) -> Error {
    Error::Format {
        path: path.into(),
        found: found.into(),
        expected: "the tokenizer of bert-base-uncased".into(),
        fix: "copy vocab.txt of bert-base-uncased into the folder".into(),
    }
}
