//! The files of a tokenizer: `vocab.json` and `merges.txt`, `tokenizer.json`, settings; the
//! standard table.

use super::{Special, Tokenizer, WORDS, bpe};
use crate::{
    error::{Error, Result},
    models::checkpoint::{NANO, assets},
};
use bpe::Bpe;
use regex::Regex;
use serde_json::Value;
use std::{
    collections::{BTreeSet, HashMap},
    fs,
    io::Read,
    path::{Path, PathBuf},
};

const BOS: &str = "<|startoftext|>";
const EOS: &str = "<|endoftext|>";
/// Length of every published CLIP text model.
const LENGTH: usize = 77;

/// Where files are read from: a folder, or the embedded base.
struct TokenizerSource {
    folder: PathBuf,
    embedded: bool,
}

impl TokenizerSource {
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.folder.join(name);
        if self.embedded {
            let inner = path.strip_prefix(NANO).unwrap_or(&path);
            return Ok(assets::nano_file(&inner.to_string_lossy()).map(<[u8]>::to_vec));
        }
        path.is_file().then(|| fs::read(&path).map_err(Error::file("read", &path))).transpose()
    }

    fn text(&self, name: &str) -> Result<Option<String>> {
        let utf8 = |b| String::from_utf8(b).map_err(|_| self.bad(name, "text that is not UTF-8"));
        self.read(name)?.map(utf8).transpose()
    }

    fn json(&self, name: &str) -> Result<Option<Value>> {
        let parse = |b: Vec<u8>| {
            serde_json::from_slice(&b).map_err(|e| self.bad(name, &format!("no JSON ({e})")))
        };
        self.read(name)?.map(parse).transpose()
    }

    fn bad(&self, name: &str, found: &str) -> Error {
        Error::Format {
            path: self.folder.join(name),
            found: found.into(),
            expected: "a CLIP tokenizer: vocab.json and merges.txt, or tokenizer.json".into(),
            fix: "copy the tokenizer folder of the model again".into(),
        }
    }
}

/// The tokenizer of the folder.
pub fn open(folder: &Path) -> Result<Tokenizer> {
    from(&TokenizerSource { folder: folder.to_path_buf(), embedded: false })
}

/// `tokenizer` or `tokenizer_2` of the embedded base.
pub fn embedded(inner: &str) -> Result<Tokenizer> {
    from(&TokenizerSource { folder: Path::new(NANO).join(inner), embedded: true })
}

/// The standard table with the given padding token.
pub fn standard(pad: &str) -> Result<Tokenizer> {
    let source = TokenizerSource { folder: PathBuf::from("standard vocabulary"), embedded: true };
    let packed = include_bytes!("../../assets/clip/bpe_simple_vocab_16e6.txt.gz");
    let mut text = String::new();
    flate2::read::GzDecoder::new(&packed[..])
        .read_to_string(&mut text)
        .map_err(|_| source.bad("", "a damaged table"))?;
    // One head line, then the rules; the table ends where 49,408 tokens are reached.
    let merges: Vec<(String, String)> =
        text.lines().skip(1).take(49_408 - 2 - 512).filter_map(rule).collect();
    let bytes: Vec<String> = bpe::standard_order().iter().map(char::to_string).collect();
    let tokens = (bytes.iter().cloned())
        .chain(bytes.iter().map(|b| format!("{b}</w>")))
        .chain(merges.iter().map(|(a, b)| format!("{a}{b}")))
        .chain([BOS.to_string(), EOS.to_string()]);
    let ids: HashMap<String, i32> = tokens.zip(0..).collect();
    let added = |text: &str, normalized| (text.to_string(), normalized);
    let mut specials = vec![added(BOS, true), added(EOS, true)];
    if pad != EOS {
        specials.push(added(pad, false));
    }
    let bpe = Bpe::new(&source.folder, ids, &merges, EOS)?;
    build(&source, bpe, &specials, [BOS, EOS, pad], LENGTH)
}

fn rule(line: &str) -> Option<(String, String)> {
    let (a, b) = line.split_once(' ')?;
    Some((a.into(), b.into()))
}

fn from(source: &TokenizerSource) -> Result<Tokenizer> {
    let settings = source.json("tokenizer_config.json")?.unwrap_or_default();
    let map = source.json("special_tokens_map.json")?.unwrap_or_default();
    let whole = source.json("tokenizer.json")?.unwrap_or_default();
    let word = |key: &str, default: &str| {
        let named = |v: &Value| {
            let v = v.get(key)?;
            v.as_str().or_else(|| v.get("content")?.as_str()).map(String::from)
        };
        named(&settings).or_else(|| named(&map)).unwrap_or_else(|| default.into())
    };
    let names = [word("bos_token", BOS), word("eos_token", EOS), word("pad_token", EOS)];
    let unknown = word("unk_token", EOS);
    let (ids, merges) = table(source, &whole)?;
    let bpe = Bpe::new(&source.folder, ids, &merges, &unknown)?;
    let mut specials = added(&settings, &whole);
    for (key, name) in ["bos_token", "eos_token", "pad_token"].iter().zip(&names) {
        if !specials.iter().any(|(text, _)| text == name) {
            let how =
                [&settings, &map].iter().find_map(|v| v.get(key)?.get("normalized")?.as_bool());
            specials.push((name.clone(), how.unwrap_or(false)));
        }
    }
    let length = settings["model_max_length"].as_u64().and_then(|n| usize::try_from(n).ok());
    let length = length.filter(|n| (2..100_000).contains(n)).unwrap_or(LENGTH);
    build(source, bpe, &specials, names.each_ref().map(String::as_str), length)
}

/// Special words listed by the settings: text, and whether it is looked for in normalized text.
fn added(settings: &Value, whole: &Value) -> Vec<(String, bool)> {
    let by_id = settings["added_tokens_decoder"].as_object().into_iter().flat_map(|m| m.values());
    let listed = whole["added_tokens"].as_array().into_iter().flatten();
    let mut seen = BTreeSet::new();
    by_id
        .chain(listed)
        .filter_map(|t| {
            let text = t["content"].as_str().filter(|t| !t.is_empty())?;
            let fresh = seen.insert(text.to_string());
            fresh.then(|| (text.to_string(), t["normalized"].as_bool().unwrap_or(false)))
        })
        .collect()
}

type Table = (HashMap<String, i32>, Vec<(String, String)>);

fn table(source: &TokenizerSource, whole: &Value) -> Result<Table> {
    let (name, vocabulary, merges) = match source.json("vocab.json")? {
        Some(vocabulary) => {
            let text = source.text("merges.txt")?;
            let text = text.ok_or_else(|| source.bad("merges.txt", "no such file"))?;
            let lines = text.lines().filter(|l| !l.starts_with("#version"));
            ("vocab.json", vocabulary, lines.filter_map(rule).collect())
        }
        None => {
            let model = &whole["model"];
            let pair = |m: &Value| match m.as_str() {
                Some(line) => rule(line),
                None => Some((m[0].as_str()?.into(), m[1].as_str()?.into())),
            };
            let merges = model["merges"].as_array().into_iter().flatten().filter_map(pair);
            ("tokenizer.json", model["vocab"].clone(), merges.collect())
        }
    };
    let ids = vocabulary.as_object().map(|map| {
        map.iter()
            .filter_map(|(t, i)| Some((t.clone(), i32::try_from(i.as_i64()?).ok()?)))
            .collect()
    });
    match ids {
        Some(ids) => Ok((ids, merges)),
        None => Err(source.bad(name, "no table of tokens")),
    }
}

fn build(
    source: &TokenizerSource,
    bpe: Bpe,
    specials: &[(String, bool)],
    [bos, eos, pad]: [&str; 3],
    max_length: usize,
) -> Result<Tokenizer> {
    let id = |t: &str| {
        let found = format!("no token {t:?}");
        bpe.id(t).ok_or_else(|| source.bad("vocab.json", &found))
    };
    let regex = |text: &str| Regex::new(text).map_err(|e| source.bad("", &e.to_string()));
    let special = |(text, normalized): &(String, bool)| {
        let (text, id) = (text.clone(), bpe.id(text)?);
        Some(Special { text, id, normalized: *normalized, whole: false })
    };
    Ok(Tokenizer {
        bos: id(bos)?,
        eos: id(eos)?,
        pad: id(pad)?,
        specials: specials.iter().filter_map(special).collect(),
        max_length,
        words: regex(&format!(r"<\|startoftext\|>|<\|endoftext\|>|{WORDS}"))?,
        inner: regex(WORDS)?,
        bpe,
    })
}
