//! Which object a kernel comes from: one that a researcher put in its place, or an embedded one.

use super::{
    cubin::{self, KernelInfo},
    cubin_table::{OBJECTS, Object, Target},
};
use crate::error::Result;
use rayon::prelude::*;
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

/// A compiled file that takes the place of embedded kernels.
#[derive(Debug)]
pub(super) struct Swapped {
    /// Where it came from, for messages and as the module's key.
    pub source: String,
    image: Vec<u8>,
    kernels: Vec<KernelInfo>,
}

impl Swapped {
    /// Reads and checks an object.
    ///
    /// # Errors
    /// [`crate::error::Error::Format`] for no object, a spill, or another tile record.
    pub fn new(source: String, image: Vec<u8>) -> Result<Self> {
        let kernels = cubin::read(&source, &image)?;
        for k in &kernels {
            cubin::check(&source, k)?;
        }
        Ok(Self { source, image, kernels })
    }

    /// Names of its kernels.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.kernels.iter().map(|k| k.name.as_str())
    }
}

/// A kernel and the object that has it.
pub(super) struct Found<'a> {
    pub source: &'a str,
    pub image: &'a [u8],
    pub info: KernelInfo,
}

/// All kernels a device can load: later swapped objects win over earlier ones and over the embedded.
#[derive(Debug, Default)]
pub(super) struct Objects {
    swapped: Vec<Swapped>,
    embedded: Option<HashMap<String, (&'static Object, KernelInfo)>>,
    left_out: HashSet<String>,
}

impl Objects {
    pub fn swap(&mut self, object: Swapped) {
        self.swapped.push(object);
    }

    /// Only embedded kernels again.
    pub fn swap_back(&mut self) {
        self.swapped.clear();
    }

    /// Finds the kernels of these names no more.
    pub fn leave_out(&mut self, symbols: &[String]) {
        self.left_out.extend(symbols.iter().cloned());
    }

    /// The object that exports `symbol`, or what was looked at.
    pub fn find(
        &mut self,
        target: Target,
        symbol: &str,
    ) -> std::result::Result<Found<'_>, Cow<'static, str>> {
        if self.left_out.contains(symbol) {
            return Err(format!("{symbol}, which was left out").into());
        }
        for object in self.swapped.iter().rev() {
            if let Some(info) = object.kernels.iter().find(|k| k.name == symbol) {
                let (source, image) = (&*object.source, &*object.image);
                return Ok(Found { source, image, info: info.clone() });
            }
        }
        let embedded = self.embedded.get_or_insert_with(|| index(target));
        match embedded.get(symbol) {
            Some((object, info)) => {
                Ok(Found { source: object.source, image: object.image(), info: info.clone() })
            }
            None => Err(tried(target, symbol)),
        }
    }
}

/// Every embedded kernel for `target`. PTX has no symbol table: its tiles are those of the same source
/// compiled for sm_80.
fn index(target: Target) -> HashMap<String, (&'static Object, KernelInfo)> {
    let readable = if target == Target::Ptx { Target::Sm80 } else { target };
    let of_object = |object: &'static Object| {
        let same = OBJECTS.iter().find(|p| p.target == target && p.source == object.source)?;
        // A damaged object is refused by `kernels list` and by its own test.
        Some((same, cubin::read(object.source, object.image()).ok()?))
    };
    // Side by side: unpacking is most of the work.
    let mine: Vec<&'static Object> = OBJECTS.iter().filter(|o| o.target == readable).collect();
    let read: Vec<_> = mine.into_par_iter().filter_map(of_object).collect();
    read.into_iter()
        .flat_map(|(object, kernels)| {
            kernels.into_iter().map(move |k| (k.name.clone(), (object, k)))
        })
        .collect()
}

fn tried(target: Target, symbol: &str) -> Cow<'static, str> {
    let n = OBJECTS.iter().filter(|o| o.target == target).count();
    if n == 0 {
        return format!(
            "{symbol}: this build embeds no {} objects; run tools/nvcc.sh and build again",
            target.name()
        )
        .into();
    }
    format!("{symbol} in {n} embedded objects").into()
}
