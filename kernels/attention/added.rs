//! CPU: a bias added to the scores of a query, and the gradient of it.

/// The bias of one call, on the host.
#[derive(Clone, Copy, Debug)]
pub(super) enum Added<'a> {
    /// None.
    Nothing,
    /// [`super::Bias::Decomposed`].
    Decomposed { gh: usize, gw: usize, h: &'a [f32], w: &'a [f32] },
    /// [`super::Bias::Offsets`].
    Offsets { gh: usize, gw: usize, table: &'a [f32] },
}

/// A query of one head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Its row among all queries of all samples and heads: `(sample L + i) H + head`.
    pub row: usize,
    /// Its head.
    pub head: usize,
    /// Its position.
    pub i: usize,
}

/// Keys of one row of the grid: where they start in the block, how many they are, their row and first column.
struct Run {
    at: usize,
    len: usize,
    v: usize,
    u: usize,
}

/// The runs of the keys `j0..j0 + len` in a grid of `gw` columns.
#[inline(always)]
fn runs(j0: usize, len: usize, gw: usize) -> impl Iterator<Item = Run> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let (v, u) = ((j0 + at) / gw, (j0 + at) % gw);
        let run = Run { at, len: (gw - u).min(len - at), v, u };
        at += run.len;
        (run.len > 0).then_some(run)
    })
}

impl Added<'_> {
    /// Adds the bias of the query `place` and the keys from `j0` to their scores.
    #[inline(always)]
    pub fn add(&self, scores: &mut [f32], place: Place, j0: usize) {
        match *self {
            Added::Nothing => {}
            Added::Decomposed { gh, gw, h, w } => {
                let (y, x) = (place.i / gw, place.i % gw);
                let h = &h[place.row * (2 * gh - 1)..][..2 * gh - 1];
                let w = &w[place.row * (2 * gw - 1)..][..2 * gw - 1];
                for r in runs(j0, scores.len(), gw) {
                    let down = h[y + gh - 1 - r.v];
                    let across = w[x + gw - r.u - r.len..x + gw - r.u].iter().rev();
                    let part = scores[r.at..r.at + r.len].iter_mut();
                    part.zip(across).for_each(|(s, across)| *s += down + across);
                }
            }
            Added::Offsets { gh, gw, table } => {
                let (y, x) = (place.i / gw, place.i % gw);
                let table = &table[place.head * gh * gw..][..gh * gw];
                for r in runs(j0, scores.len(), gw) {
                    let table = &table[y.abs_diff(r.v) * gw..][..gw];
                    let part = scores[r.at..r.at + r.len].iter_mut();
                    part.enumerate().for_each(|(i, s)| *s += table[x.abs_diff(r.u + i)]);
                }
            }
        }
    }

    /// Adds `ds` of the query `place` and the keys from `j0` to a unit's gradients of the bias.
    #[inline(always)]
    pub fn collect(&self, ds: &[f32], place: Place, j0: usize, to: [&mut [f32]; 2]) {
        let [first, second] = to;
        match *self {
            Added::Nothing => {}
            Added::Decomposed { gh, gw, .. } => {
                let (y, x) = (place.i / gw, place.i % gw);
                let h = &mut first[place.i * (2 * gh - 1)..][..2 * gh - 1];
                let w = &mut second[place.i * (2 * gw - 1)..][..2 * gw - 1];
                for r in runs(j0, ds.len(), gw) {
                    let ds = &ds[r.at..r.at + r.len];
                    h[y + gh - 1 - r.v] += ds.iter().sum::<f32>();
                    let across = w[x + gw - r.u - r.len..x + gw - r.u].iter_mut().rev();
                    across.zip(ds).for_each(|(w, d)| *w += d);
                }
            }
            Added::Offsets { gw, .. } => {
                let (y, x) = (place.i / gw, place.i % gw);
                for r in runs(j0, ds.len(), gw) {
                    let table = &mut first[y.abs_diff(r.v) * gw..][..gw];
                    for (i, d) in ds[r.at..r.at + r.len].iter().enumerate() {
                        table[x.abs_diff(r.u + i)] += d;
                    }
                }
            }
        }
    }
}
