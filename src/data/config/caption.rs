//! `[caption]`: who writes the captions that photos lack.

use serde::{Deserialize, Serialize};

/// A vision model behind an OpenAI-compatible endpoint; an empty URL: nobody, and nothing is sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CaptionSection {
    /// Its address up to `/chat/completions`.
    pub url: String,
    /// Its model.
    pub model: String,
    /// The environment variable that holds the key; no key is sent without it.
    pub key_env: String,
}

impl CaptionSection {
    /// Whether somebody is asked.
    pub fn is_on(&self) -> bool {
        !self.url.trim().is_empty()
    }
}
