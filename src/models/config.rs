//! Reading a published `config.json`: every key is understood, or an error names it and its value.

use crate::error::{Error, Result};
use serde_json::{Map, Value as Json};
use std::collections::BTreeSet;

/// Nothing in a published configuration is larger; keeps hostile numbers out of the arithmetic.
const LARGEST: usize = 1 << 24;

/// The keys of one configuration, and which of them were asked for.
#[derive(Debug)]
pub struct Keys<'a> {
    what: &'static str,
    map: &'a Map<String, Json>,
    seen: BTreeSet<&'static str>,
}

impl<'a> Keys<'a> {
    /// The keys of `json`; `what` names the configuration in errors (`unet/config.json`).
    ///
    /// # Errors
    /// [`Error::Config`] when it is no object.
    pub fn new(what: &'static str, json: &'a Json) -> Result<Self> {
        let map = json.as_object().ok_or_else(|| Error::Config {
            key: what.into(),
            found: shortened(json),
            expected: "a JSON object".into(),
            fix: "pass the component's own config.json".into(),
        })?;
        Ok(Self { what, map, seen: BTreeSet::new() })
    }

    /// The value of `key`; absent and `null` are the same.
    pub fn get(&mut self, key: &'static str) -> Option<&'a Json> {
        self.seen.insert(key);
        self.map.get(key).filter(|v| !v.is_null())
    }

    /// True when `key` is there and `null`.
    pub fn is_null(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(Json::is_null)
    }

    /// An [`Error::Config`] about the value of `key`.
    pub fn wrong(&self, key: &str, expected: impl Into<String>) -> Error {
        Error::Config {
            key: format!("{}: {key}", self.what),
            found: self.map.get(key).map_or("nothing".into(), shortened),
            expected: expected.into(),
            fix: "this model family is not supported otherwise".into(),
        }
    }

    /// A whole number.
    ///
    /// # Errors
    /// [`Error::Config`] when it is none, or out of `0..=2^24`.
    pub fn number(&mut self, key: &'static str, default: usize) -> Result<usize> {
        let value = self.get(key);
        value.map_or(Ok(default), |v| self.whole(key, v))
    }

    /// A whole number above 0.
    ///
    /// # Errors
    /// [`Error::Config`] otherwise.
    pub fn positive(&mut self, key: &'static str, default: usize) -> Result<usize> {
        match self.number(key, default)? {
            0 => Err(self.wrong(key, "a whole number above 0")),
            n => Ok(n),
        }
    }

    /// A real number.
    ///
    /// # Errors
    /// [`Error::Config`] when it is none.
    pub fn real(&mut self, key: &'static str, default: f32) -> Result<f32> {
        match self.get(key) {
            None => Ok(default),
            Some(v) => {
                let x = v.as_f64().filter(|x| x.is_finite());
                x.map(|x| x as f32).ok_or_else(|| self.wrong(key, "a number"))
            }
        }
    }

    /// A real number in double precision.
    ///
    /// # Errors
    /// [`Error::Config`] when it is none.
    pub fn double(&mut self, key: &'static str, default: f64) -> Result<f64> {
        match self.get(key) {
            None => Ok(default),
            Some(v) => v.as_f64().ok_or_else(|| self.wrong(key, "a number")),
        }
    }

    /// True or false.
    ///
    /// # Errors
    /// [`Error::Config`] when it is neither.
    pub fn flag(&mut self, key: &'static str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(v) => v.as_bool().ok_or_else(|| self.wrong(key, "true or false")),
        }
    }

    /// A list of whole numbers.
    ///
    /// # Errors
    /// [`Error::Config`] when it is none, or empty.
    pub fn numbers(&mut self, key: &'static str, default: &[usize]) -> Result<Vec<usize>> {
        match self.get(key) {
            None => Ok(default.to_vec()),
            Some(v) => match v.as_array().filter(|a| !a.is_empty() && a.len() <= 64) {
                Some(items) => items.iter().map(|v| self.whole(key, v)).collect(),
                None => Err(self.wrong(key, "a list of whole numbers")),
            },
        }
    }

    /// One value of `key` for each of `n` blocks: a list of `n`, or one value for all.
    ///
    /// # Errors
    /// [`Error::Config`] when a list has another length.
    pub fn each(&mut self, key: &'static str, n: usize, default: &Json) -> Result<Vec<Json>> {
        match self.get(key).unwrap_or(default) {
            Json::Array(items) if items.len() == n => Ok(items.clone()),
            Json::Array(_) => Err(self.wrong(key, format!("one value, or a list of {n}"))),
            one => Ok(vec![one.clone(); n]),
        }
    }

    /// As [`Keys::each`] for whole numbers.
    ///
    /// # Errors
    /// [`Error::Config`] otherwise.
    pub fn each_number(
        &mut self,
        key: &'static str,
        n: usize,
        default: usize,
    ) -> Result<Vec<usize>> {
        let values = self.each(key, n, &Json::from(default))?;
        values.iter().map(|v| self.whole(key, v)).collect()
    }

    /// A list of names out of `known`.
    ///
    /// # Errors
    /// [`Error::Config`] for another length or a name that is not known.
    pub fn names(
        &mut self,
        key: &'static str,
        n: usize,
        known: &[&'static str],
        default: &[&'static str],
    ) -> Result<Vec<&'static str>> {
        let expected = format!("a list of {n}, each one of {}", known.join(", "));
        let Some(value) = self.get(key) else {
            return match default.len() == n {
                true => Ok(default.to_vec()),
                false => Err(self.wrong(key, expected)),
            };
        };
        let items = value.as_array().filter(|a| a.len() == n);
        let name = |v: &Json| known.iter().find(|k| v.as_str() == Some(k)).copied();
        let names = items.and_then(|a| a.iter().map(name).collect::<Option<Vec<_>>>());
        names.ok_or_else(|| self.wrong(key, expected))
    }

    /// One name out of `known`; absent means the first.
    ///
    /// # Errors
    /// [`Error::Config`] for any other.
    pub fn name(&mut self, key: &'static str, known: &[&'static str]) -> Result<&'static str> {
        match self.get(key) {
            None => Ok(known[0]),
            Some(v) => {
                let found = known.iter().find(|k| v.as_str() == Some(k)).copied();
                found.ok_or_else(|| self.wrong(key, known.join(" or ")))
            }
        }
    }

    /// Each of `keys` must be absent, `null`, `false`, or the one value that changes nothing.
    ///
    /// # Errors
    /// [`Error::Config`] that names the first other value.
    pub fn neutral(&mut self, keys: &[(&'static str, Json)]) -> Result<()> {
        for (key, neutral) in keys {
            if let Some(v) = self.get(key) {
                let number = v.as_f64().is_some() && v.as_f64() == neutral.as_f64();
                if v != neutral && *v != Json::Bool(false) && !number {
                    return Err(self.wrong(key, format!("{neutral} or nothing")));
                }
            }
        }
        Ok(())
    }

    /// Keys that describe the file or its training and change no result.
    pub fn skip(&mut self, keys: &[&'static str]) {
        self.seen.extend(keys);
    }

    /// The keys that nobody asked for, with their values; no `null` and nothing that begins with `_`.
    pub fn unread(&self) -> impl Iterator<Item = (&'a str, &'a Json)> {
        let all = self.map.iter().filter(|(k, v)| {
            !k.starts_with('_') && !v.is_null() && !self.seen.contains(k.as_str())
        });
        all.map(|(k, v)| (k.as_str(), v))
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// [`Error::Config`] for a key that nobody asked for; keys that begin with `_` and `null`s are fine.
    pub fn finish(self) -> Result<()> {
        match self.unread().next() {
            None => Ok(()),
            Some((key, value)) => Err(Error::Config {
                key: format!("{}: {key}", self.what),
                found: shortened(value),
                expected: "a key of this model family".into(),
                fix: "remove the key if it changes nothing, or use a supported model".into(),
            }),
        }
    }

    /// `value` of `key` as a whole number.
    ///
    /// # Errors
    /// [`Error::Config`] when it is none, or out of `0..=2^24`.
    pub fn whole(&self, key: &str, value: &Json) -> Result<usize> {
        let n = value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n <= LARGEST);
        n.ok_or_else(|| self.wrong(key, "whole numbers"))
    }
}

fn shortened(value: &Json) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_unknown_key_is_named_with_its_value() {
        let json = json!({"a": 3, "_class_name": "X", "gone": null, "strange": [1, 2]});
        let mut keys = Keys::new("unet/config.json", &json).unwrap();
        assert_eq!(keys.number("a", 1).unwrap(), 3);
        let text = keys.finish().unwrap_err().to_string();
        assert!(text.contains("strange") && text.contains("[1,2]"), "{text}");
    }

    #[test]
    fn a_value_that_changes_results_is_refused_and_a_neutral_one_is_not() {
        let json = json!({"scale": 1, "off": false, "kind": "fancy"});
        let mut keys = Keys::new("x", &json).unwrap();
        keys.neutral(&[("scale", json!(1.0)), ("off", json!(null))]).unwrap();
        let text = keys.neutral(&[("kind", json!("default"))]).unwrap_err().to_string();
        assert!(text.contains("kind") && text.contains("fancy"), "{text}");
    }

    #[test]
    fn one_number_serves_every_block_and_a_list_must_fit() {
        let json = json!({"one": 2, "list": [1, 2], "huge": 1e30});
        let mut keys = Keys::new("x", &json).unwrap();
        assert_eq!(keys.each_number("one", 3, 1).unwrap(), [2, 2, 2]);
        assert_eq!(keys.each_number("list", 2, 1).unwrap(), [1, 2]);
        assert!(keys.each_number("list", 3, 1).is_err());
        assert!(keys.number("huge", 1).is_err());
    }
}
