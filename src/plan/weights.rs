//! The weights of a program: where they come from, and how they get to its device.

use super::{Plan, WeightLayout, record::Class};
use crate::{
    device::{Arena, Device, Weight, WeightBlock},
    error::{Error, Result},
    tensor::{DType, Floats, Spec},
};
use rayon::prelude::*;
use std::{collections::HashMap, sync::Arc};

/// Elements as they are stored, in runtime layout; a clone shares them.
pub type StoredBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Where parameters come from; asked by several threads at once.
pub trait WeightSource: Sync {
    /// The parameter `name` in runtime layout as f32, shared between programs; `None` when it is missing.
    ///
    /// # Errors
    /// When the source cannot be read, or holds the name with another shape.
    fn get(&self, name: &str, dims: &[usize], layout: WeightLayout) -> Result<Option<Floats>>;

    /// The source that stores `name` as this one gives it; `None` where this one reads or makes it itself.
    fn keeper(&self, _name: &str) -> Option<&dyn WeightSource> {
        None
    }

    /// The parameter `name` in runtime layout as `dtype`, where the source, or its keeper, stores that type; `None`
    /// where [`WeightSource::get`] must be asked. A GPU's memory is filled without an f32 copy on the host this way.
    ///
    /// # Errors
    /// As [`WeightSource::get`].
    fn stored(
        &self,
        name: &str,
        dims: &[usize],
        layout: WeightLayout,
        dtype: DType,
    ) -> Result<Option<StoredBytes>> {
        match self.keeper(name) {
            Some(keeper) => keeper.stored(name, dims, layout, dtype),
            None => Ok(None),
        }
    }

    /// The parameter `name` in runtime layout as `dtype`, 16 bits wide and at an even address, for the CPU: as the
    /// source or its keeper has it, else rounded from f32. `None` when it is missing.
    ///
    /// # Errors
    /// As [`WeightSource::get`].
    fn halves(
        &self,
        name: &str,
        dims: &[usize],
        layout: WeightLayout,
        dtype: DType,
    ) -> Result<Option<StoredBytes>> {
        if let Some(keeper) = self.keeper(name)
            && let Some(kept) = keeper.halves(name, dims, layout, dtype)?
        {
            return Ok(Some(kept));
        }
        Ok(self.get(name, dims, layout)?.map(|data| rounded(&data, dtype)))
    }
}

/// `data` rounded to `dtype`, 16 bits wide.
pub fn rounded(data: &[f32], dtype: DType) -> StoredBytes {
    Arc::new(Halves(dtype.halves(data)))
}

/// Numbers of 16 bits that nobody else holds.
struct Halves(Vec<u16>);

impl AsRef<[u8]> for Halves {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// The frozen weights of a program on its device.
#[derive(Debug)]
pub(super) struct Weights {
    pub list: Vec<Weight>,
    /// Parameter name to its place in the list, with dims and type.
    names: HashMap<String, (usize, Spec)>,
    block: WeightBlock,
}

/// A parameter that is to be brought to the device.
struct Wanted<'p> {
    root: usize,
    name: &'p str,
    spec: &'p Spec,
    layout: WeightLayout,
    trainable: bool,
}

/// What a source gave.
enum Found {
    Floats(Floats),
    Stored(StoredBytes),
    Nothing,
}

/// Parameters asked for at once: what a GPU's host holds at a time on their way.
const GROUP: usize = 64;

impl Weights {
    /// Brings every parameter that a step touches to the device, trainables into the arena; also returns value ->
    /// place in the list.
    pub fn take(
        plan: &Plan,
        device: &Device,
        arena: &mut Arena,
        source: &dyn WeightSource,
    ) -> Result<(Self, HashMap<usize, usize>)> {
        let wanted = wanted(plan);
        let frozen = wanted.iter().filter(|w| !w.trainable).map(|w| w.spec.bytes());
        let block = WeightBlock::new(device, frozen)?;
        let mut weights = Self { list: vec![], names: HashMap::new(), block };
        let (mut index, mut missing) = (HashMap::new(), vec![]);
        for group in wanted.chunks(GROUP) {
            let fetch = |w: &Wanted<'_>| fetch(source, w, device);
            let found: Vec<Found> = group.par_iter().map(fetch).collect::<Result<_>>()?;
            for (w, found) in group.iter().zip(found) {
                match found {
                    Found::Nothing => missing.push(w.name.to_string()),
                    Found::Floats(data) if w.trainable => {
                        arena.set(&plan.places.master_of(w.root), bytemuck::cast_slice(&data))?;
                    }
                    found => {
                        index.insert(w.root, weights.list.len());
                        weights.put(w, found)?;
                    }
                }
            }
        }
        match missing.is_empty() {
            true => Ok((weights, index)),
            false => Err(missing_error(missing)),
        }
    }

    fn put(&mut self, w: &Wanted<'_>, found: Found) -> Result<()> {
        let weight = match found {
            Found::Floats(data) => Some(self.block.put(data, w.spec.dtype)?),
            Found::Stored(bytes) => Some(self.block.put_stored(bytes)?),
            Found::Nothing => None,
        };
        self.names.insert(w.name.into(), (self.list.len(), w.spec.clone()));
        self.list.extend(weight);
        Ok(())
    }

    /// Value -> place in the list for another plan whose frozen weights are all here.
    ///
    /// # Errors
    /// [`Error::Plan`] for a plan with trainables, [`Error::Weights`] for one with other weights.
    pub fn index(&self, plan: &Plan) -> Result<HashMap<usize, usize>> {
        let (mut index, mut missing) = (HashMap::new(), vec![]);
        for w in wanted(plan) {
            if w.trainable {
                let problem = "trained, and does not lie among the weights".into();
                return Err(Error::Plan { at: w.name.into(), problem });
            }
            match self.names.get(w.name).filter(|(_, spec)| spec == w.spec) {
                Some((i, _)) => drop(index.insert(w.root, *i)),
                None => missing.push(w.name.to_string()),
            }
        }
        if missing.is_empty() { Ok(index) } else { Err(missing_error(missing)) }
    }
}

/// The parameters a program needs, in the order of the recording.
fn wanted(plan: &Plan) -> Vec<Wanted<'_>> {
    let used = plan.used_params();
    let mut all = vec![];
    for (root, slot) in plan.rec.slots.iter().enumerate() {
        if let Class::Param { layout, trainable } = slot.class
            && (trainable || used.contains(&root))
        {
            all.push(Wanted { root, name: &slot.name, spec: &slot.spec, layout, trainable });
        }
    }
    all
}

/// Asks `source` for one parameter: on a GPU first for the type it is kept in, on the CPU for the type it is wanted in.
fn fetch(source: &dyn WeightSource, w: &Wanted<'_>, device: &Device) -> Result<Found> {
    let (dims, dtype) = (&w.spec.dims, w.spec.dtype);
    if !w.trainable {
        let stored = match device {
            Device::Cuda(_) => source.stored(w.name, dims, w.layout, dtype)?,
            Device::Cpu if dtype != DType::F32 => source.halves(w.name, dims, w.layout, dtype)?,
            Device::Cpu => None,
        };
        if let Some(bytes) = stored {
            let len = (*bytes).as_ref().len();
            return match len == w.spec.bytes() {
                true => Ok(Found::Stored(bytes)),
                false => Err(wrong_length(w.name, len / w.spec.dtype.size_bytes(), w.spec)),
            };
        }
    }
    match source.get(w.name, dims, w.layout)? {
        None => Ok(Found::Nothing),
        Some(data) if data.len() != w.spec.len() => Err(wrong_length(w.name, data.len(), w.spec)),
        Some(data) => Ok(Found::Floats(data)),
    }
}

fn missing_error(missing: Vec<String>) -> Error {
    Error::Weights { source_name: "weights".into(), missing, unknown: vec![], misshaped: vec![] }
}

pub(super) fn wrong_length(name: &str, got: usize, want: &Spec) -> Error {
    Error::Shape {
        at: name.into(),
        what: "data",
        got: vec![got],
        want: format!("{} elements ({want})", want.len()),
    }
}
