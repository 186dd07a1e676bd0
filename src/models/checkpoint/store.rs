//! Where one parameter lies: a tensor of a file, or a part of it.

use crate::{
    error::{Error, Result},
    tensor::{
        Tensor,
        safetensors::{SafeFile, Stored},
    },
};
use std::{collections::BTreeMap, sync::Arc};

/// Which part of a stored tensor a parameter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Whole,
    /// The `i`-th third of the rows: q, k, v of a stacked projection.
    Third(usize),
    /// The matrix transposed.
    Transposed,
}

/// A parameter in a file.
#[derive(Clone, Debug)]
pub struct Slot {
    file: Arc<SafeFile>,
    /// Name in the file.
    pub stored: String,
    /// Dims of the parameter, in the published layout.
    pub dims: Vec<usize>,
    part: Part,
}

impl Slot {
    /// The whole tensor `name`.
    pub fn whole(file: &Arc<SafeFile>, name: &str) -> Result<Self> {
        let dims = file.entry(name)?.dims.clone();
        Ok(Self { file: file.clone(), stored: name.into(), dims, part: Part::Whole })
    }

    /// The transposed matrix; `None` when it is no matrix.
    pub fn transposed(&self) -> Option<Self> {
        match self.dims[..] {
            [a, b] => Some(Self { dims: vec![b, a], part: Part::Transposed, ..self.clone() }),
            _ => None,
        }
    }

    /// The `i`-th third of the rows; `None` when they do not divide.
    pub fn third(&self, i: usize) -> Option<Self> {
        let rows = *self.dims.first()?;
        let mut dims = self.dims.clone();
        dims[0] = rows / 3;
        (rows % 3 == 0).then(|| Self { dims, part: Part::Third(i), ..self.clone() })
    }

    /// Reads the values, f32, in the published layout.
    pub fn read(&self) -> Result<Tensor> {
        let mut t = self.file.f32(&self.stored)?;
        match self.part {
            Part::Whole => {}
            Part::Transposed => t = t.permuted(&[1, 0]),
            Part::Third(i) => {
                let n = t.data.len() / 3;
                t.data = t.data.drain(i * n..(i + 1) * n).collect();
                t.dims = self.dims.clone();
            }
        }
        Ok(t)
    }

    /// The elements where they lie, in the published order; `None` for a transposed matrix.
    pub fn stored(&self) -> Result<Option<Stored>> {
        let stored = self.file.stored(&self.stored)?;
        Ok(match self.part {
            Part::Whole => Some(stored),
            Part::Third(i) => Some(stored.part(i, 3)),
            Part::Transposed => None,
        })
    }

    /// The file it comes from.
    pub fn source(&self) -> String {
        self.file.path().display().to_string()
    }
}

/// Parameters by their diffusers or transformers name.
pub type Slots = BTreeMap<String, Slot>;

/// Adds `name`, which must be new.
pub fn insert(slots: &mut Slots, name: String, slot: Slot) -> Result<()> {
    if let Some(old) = slots.get(&name) {
        return Err(Error::Data {
            at: slot.source(),
            found: format!("{} and {} for {name}", old.stored, slot.stored),
            expected: "one tensor for each parameter".into(),
            fix: "remove one of them".into(),
        });
    }
    slots.insert(name, slot);
    Ok(())
}
