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
#[derive(Clone, Debug)]
enum Part {
    Whole,
    /// The `i`-th of `n` equal shares of the rows: q, k, v of a stacked projection.
    Share(usize, usize),
    /// The matrix transposed.
    Transposed,
    /// The rows of q, k or v (`i`) in a projection that stacks the three head by head.
    OfHeads(usize, usize),
    /// Every row times a number of its own: a convolution with its batch normalization.
    Scaled(Arc<[f32]>),
    /// These numbers.
    Known(Arc<[f32]>),
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
    /// A merged adapter.
    added: Option<Arc<LowRank>>,
}

/// What a merged adapter adds to a matrix: `scale up down`.
#[derive(Debug)]
pub struct LowRank {
    /// `[out, rank]`.
    pub up: Slot,
    /// `[rank, in]`.
    pub down: Slot,
    /// The factor.
    pub scale: f32,
}

impl Slot {
    /// The whole tensor `name`.
    pub fn whole(file: &Arc<SafeFile>, name: &str) -> Result<Self> {
        let dims = file.entry(name)?.dims.clone();
        Ok(Self { file: file.clone(), stored: name.into(), dims, part: Part::Whole, added: None })
    }

    /// The transposed matrix; `None` when it is no matrix.
    pub fn transposed(&self) -> Option<Self> {
        match self.dims[..] {
            [a, b] => Some(Self { dims: vec![b, a], part: Part::Transposed, ..self.clone() }),
            _ => None,
        }
    }

    /// The `i`-th of `n` equal shares of the rows; `None` when they do not divide.
    pub fn share(&self, i: usize, n: usize) -> Option<Self> {
        let rows = *self.dims.first()?;
        let mut dims = self.dims.clone();
        dims[0] = rows / n;
        (rows % n == 0).then(|| Self { dims, part: Part::Share(i, n), ..self.clone() })
    }

    /// The matrix with an adapter merged into it; `None` when the shapes do not fit.
    pub fn merged(&self, low_rank: LowRank) -> Option<Self> {
        let ([out, width], [o, r], [rank, i]) =
            (&self.dims[..], &low_rank.up.dims[..], &low_rank.down.dims[..])
        else {
            return None;
        };
        (o == out && i == width && r == rank)
            .then(|| Self { added: Some(Arc::new(low_rank)), ..self.clone() })
    }

    /// Rows of q, k or v (`i` from 0) in a projection whose rows are q, k and v of the first head, then of the next;
    /// `None` when they do not divide.
    pub fn of_heads(&self, i: usize, heads: usize) -> Option<Self> {
        let rows = *self.dims.first()?;
        let mut dims = self.dims.clone();
        dims[0] = rows / 3;
        let whole = heads > 0 && rows.is_multiple_of(3 * heads);
        whole.then(|| Self { dims, part: Part::OfHeads(i, heads), ..self.clone() })
    }

    /// The tensor with row `i` times `factors[i]`.
    pub fn scaled(&self, factors: Arc<[f32]>) -> Self {
        Self { part: Part::Scaled(factors), ..self.clone() }
    }

    /// Numbers that were computed from this tensor and others.
    pub fn known(&self, values: Arc<[f32]>) -> Self {
        Self { dims: vec![values.len()], part: Part::Known(values), ..self.clone() }
    }

    /// Reads the values, f32, in the published layout.
    pub fn read(&self) -> Result<Tensor> {
        if let Part::Known(values) = &self.part {
            return Ok(Tensor { dims: self.dims.clone(), data: values.to_vec() });
        }
        let mut t = self.file.f32(&self.stored)?;
        match &self.part {
            Part::Whole | Part::Known(_) => {}
            Part::Transposed => t = t.permuted(&[1, 0]),
            Part::Share(i, shares) => {
                let n = t.data.len() / shares;
                t.data = t.data.drain(i * n..(i + 1) * n).collect();
                t.dims = self.dims.clone();
            }
            Part::OfHeads(i, heads) => {
                let n = t.data.len() / 3 / heads;
                let own = t.data.chunks_exact(n.max(1)).skip(*i).step_by(3);
                t = Tensor { dims: self.dims.clone(), data: own.flatten().copied().collect() };
            }
            Part::Scaled(_) => self.scale(&mut t.data),
        }
        if let Some(low_rank) = &self.added {
            let (up, down) = (low_rank.up.read()?, low_rank.down.read()?);
            let width = down.dims.last().copied().unwrap_or(0).max(1);
            let rank = down.dims.first().copied().unwrap_or(0).max(1);
            for (row, up) in t.data.chunks_exact_mut(width).zip(up.data.chunks_exact(rank)) {
                for (u, down) in up.iter().zip(down.data.chunks_exact(width)) {
                    row.iter_mut().zip(down).for_each(|(w, d)| *w += low_rank.scale * u * d);
                }
            }
        }
        Ok(t)
    }

    /// Multiplies the rows of `data` with their factors, where this is a tensor with scaled rows.
    pub fn scale(&self, data: &mut [f32]) {
        if let Part::Scaled(factors) = &self.part {
            let n = data.len() / factors.len().max(1);
            for (row, f) in data.chunks_exact_mut(n.max(1)).zip(factors.iter()) {
                row.iter_mut().for_each(|x| *x *= f);
            }
        }
    }

    /// Puts `own`, values of this part of a stacked projection, at their place in `whole`, values of all of it; false
    /// for what is no such part.
    pub fn put_back(&self, whole: &mut [f32], own: &[f32]) -> bool {
        let (i, heads, shares) = match self.part {
            Part::Share(i, n) => (i, 1, n),
            Part::OfHeads(i, heads) => (i, heads, 3),
            _ => return false,
        };
        let n = own.len().checked_div(heads).unwrap_or(0).max(1);
        let places = whole.chunks_exact_mut(n).skip(i).step_by(shares);
        places.zip(own.chunks_exact(n)).for_each(|(to, from)| to.copy_from_slice(from));
        true
    }

    /// The elements where they lie, in the published order; `None` where they are not as the parameter has them.
    pub fn stored(&self) -> Result<Option<Stored>> {
        let stored = self.file.stored(&self.stored)?;
        Ok(match self.part {
            _ if self.added.is_some() => None,
            Part::Whole => Some(stored),
            Part::Share(i, n) => Some(stored.part(i, n)),
            Part::Transposed | Part::OfHeads(..) | Part::Scaled(_) | Part::Known(_) => None,
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
