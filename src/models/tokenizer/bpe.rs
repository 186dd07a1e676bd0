//! Byte-pair encoding of one word.

use crate::error::{Error, Result};
use std::collections::HashMap;
use std::path::Path;

/// Table and merge rules.
#[derive(Clone, Debug)]
pub struct Bpe {
    ids: HashMap<String, i32>,
    texts: HashMap<i32, String>,
    /// Pair to (rank, merged).
    merges: HashMap<(i32, i32), (usize, i32)>,
    unknown: Option<i32>,
    bytes: Vec<char>,
}

/// The printable stand-in of every byte: itself where printable, else a character from U+0100 on.
fn byte_chars() -> Vec<char> {
    let mut next = 0x100u32;
    let printable = |b: u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    (0..=255u8)
        .map(|b| match printable(b) {
            true => char::from(b),
            false => {
                next += 1;
                char::from_u32(next - 1).unwrap_or('?')
            }
        })
        .collect()
}

/// The 256 stand-ins in the order of the standard table: printable bytes first.
pub fn standard_order() -> Vec<char> {
    let (mut first, last): (Vec<char>, Vec<char>) =
        byte_chars().into_iter().partition(|c| u32::from(*c) < 0x100);
    first.extend(last);
    first
}

impl Bpe {
    /// From a table and merge rules, best first; `source` is named in errors.
    pub fn new(
        source: &Path,
        ids: HashMap<String, i32>,
        merges: &[(String, String)],
        unknown: &str,
    ) -> Result<Self> {
        let bad = |found: String| Error::Format {
            path: source.to_path_buf(),
            found,
            expected: "merge rules over the tokens of the vocabulary".into(),
            fix: "take vocab.json and merges.txt from the same model".into(),
        };
        let id = |t: &str| ids.get(t).copied().ok_or_else(|| bad(format!("no token {t:?}")));
        let mut rules = HashMap::with_capacity(merges.len());
        for (rank, (a, b)) in merges.iter().enumerate() {
            let rule = (rank, id(&format!("{a}{b}"))?);
            rules.entry((id(a)?, id(b)?)).or_insert(rule);
        }
        let texts = ids.iter().map(|(t, i)| (*i, t.clone())).collect();
        let unknown = ids.get(unknown).copied();
        Ok(Self { ids, texts, merges: rules, unknown, bytes: byte_chars() })
    }

    /// Every token with its id.
    pub fn vocabulary(&self) -> &HashMap<String, i32> {
        &self.ids
    }

    /// The merge rules as `merges.txt` has them, best first.
    pub fn rules_text(&self) -> String {
        let mut rules: Vec<_> = self.merges.iter().collect();
        rules.sort_by_key(|(_, (rank, _))| *rank);
        let text = |id: i32| self.text(id).unwrap_or_default();
        let lines = rules.iter().map(|((a, b), _)| format!("{} {}\n", text(*a), text(*b)));
        std::iter::once("#version: 0.2\n".to_string()).chain(lines).collect()
    }

    /// The id of a token of the table.
    pub fn id(&self, token: &str) -> Option<i32> {
        self.ids.get(token).copied()
    }

    /// The token of an id.
    pub fn text(&self, id: i32) -> Option<&str> {
        self.texts.get(&id).map(String::as_str)
    }

    /// Tokens in the table.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// What stands for a symbol outside the table.
    pub fn unknown(&self) -> Option<i32> {
        self.unknown
    }

    /// Appends the ids of one word: bytes, the last one marked as the end, merged best rule first.
    pub fn word(&self, word: &str, out: &mut Vec<i32>) {
        let last = word.len().saturating_sub(1);
        let mut parts: Vec<i32> = word
            .bytes()
            .enumerate()
            .filter_map(|(i, b)| {
                let mut symbol = self.bytes[usize::from(b)].to_string();
                if i == last {
                    symbol.push_str("</w>");
                }
                self.ids.get(&symbol).copied().or(self.unknown)
            })
            .collect();
        let rule = |p: &[i32]| self.merges.get(&(p[0], p[1]));
        while let Some(best) = parts.windows(2).filter_map(rule).min().copied() {
            let (mut merged, mut i) = (Vec::with_capacity(parts.len()), 0);
            while i < parts.len() {
                let hit = parts.get(i..i + 2).and_then(rule) == Some(&best);
                merged.push(if hit { best.1 } else { parts[i] });
                i += if hit { 2 } else { 1 };
            }
            parts = merged;
        }
        out.append(&mut parts);
    }
}
