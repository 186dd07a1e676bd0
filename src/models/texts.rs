//! Prompts as conditioning: each text is encoded once in a run.

use super::base::{Base, Encoded};
use crate::{device::Device, error::Result, lora::Adapters, plan::WeightSource};
use std::collections::HashMap;

/// Encoded texts, kept for a whole run: 77 rows of the joint width each, under a megabyte.
///
/// They depend on the adapters of the text encoders; a run whose text encoders change keeps none.
#[derive(Debug, Default)]
pub struct Texts {
    known: HashMap<String, Encoded>,
    /// How often the text encoders were planned and loaded.
    pub loads: usize,
}

impl Texts {
    /// Encodes those of `texts` that are new; their encoders are loaded once for all of them and let go.
    ///
    /// # Errors
    /// Those of the text encoders.
    pub fn encode(
        &mut self,
        (base, device): (&Base, &Device),
        (adapters, weights): (&Adapters, &dyn WeightSource),
        texts: &[&str],
    ) -> Result<()> {
        let mut new: Vec<&str> =
            texts.iter().copied().filter(|t| !self.known.contains_key(*t)).collect();
        new.sort_unstable();
        new.dedup();
        if new.is_empty() {
            return Ok(());
        }
        let mut program = base.text_program(device, adapters, 1, weights)?;
        self.loads += 1;
        for text in new {
            let encoded = base.encode(&mut program, &[text])?;
            self.known.insert(text.into(), encoded);
        }
        Ok(())
    }

    /// What [`Texts::encode`] made of `text`.
    pub fn get(&self, text: &str) -> Option<&Encoded> {
        self.known.get(text)
    }
}
