//! Packed operands times each other, block by block, into their place.

use super::{
    super::product::{Initial, Rows, index},
    shape::{BLOCK, STEP},
    tile::Session,
};

/// Where sums go.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// The first column of row 0.
    pub data: *mut f32,
    /// Elements from one row to the next.
    pub stride: usize,
    /// The row of each result.
    pub rows: Rows<'a>,
    /// Whether rows and columns of the destination are exchanged.
    pub turned: bool,
}

// SAFETY: threads write disjoint rows or columns of a destination that is uniquely borrowed meanwhile.
unsafe impl Sync for Target<'_> {}

impl Target<'_> {
    /// The part from a column of the result on.
    pub fn column(self, column: usize) -> Self {
        let skip = if self.turned { column * self.stride } else { column };
        Self { data: self.data.wrapping_add(skip), ..self }
    }

    /// The part from a row on.
    pub fn row(self, row: usize) -> Self {
        Self { rows: Rows::From(row), ..self }
    }
}

/// Packed operands: where they are, elements from one strip or panel to the next, and steps of each.
#[derive(Clone, Copy)]
pub struct Packed<'a> {
    /// Strips or panels.
    pub data: &'a [u16],
    /// Elements from one to the next.
    pub each: usize,
    /// The steps that count.
    pub first: usize,
}

/// `target = initial + strips . panels` over `depth` steps for `[rows, columns]` results.
///
/// # Safety
/// The destination holds all results, and nobody else touches them meanwhile.
///
/// # Panics
/// When packed operands are too short: a bug of the caller.
pub unsafe fn multiply(
    session: &Session,
    (strips, panels, depth): (Packed<'_>, Packed<'_>, usize),
    [rows, columns]: [usize; 2],
    target: Target<'_>,
    initial: Initial<'_>,
) {
    let part =
        |p: Packed<'_>, i: usize| p.data[i * p.each + p.first * STEP..][..depth * STEP].as_ptr();
    for (i, column) in (0..columns).step_by(BLOCK).enumerate() {
        let (panel, width) = (part(panels, i), BLOCK.min(columns - column));
        for (j, row) in (0..rows).step_by(BLOCK).enumerate() {
            let block = Block { row, column, height: BLOCK.min(rows - row), width };
            // SAFETY: the operands were sliced; the destination by the caller's promise.
            unsafe { block.add(session, (part(strips, j), panel, depth), target, initial) };
        }
    }
}

/// `to [rows, columns] = initial + strips . panels` over `depth` steps; rows lie `stride` elements apart.
///
/// # Panics
/// When packed operands or the destination are too short: a bug of the caller.
pub fn product(
    session: &Session,
    (strips, panels, depth): (Packed<'_>, Packed<'_>, usize),
    (to, stride): (&mut [f32], usize),
    [rows, columns]: [usize; 2],
    initial: Initial<'_>,
) {
    if rows == 0 || columns == 0 {
        return;
    }
    assert!((rows - 1) * stride + columns <= to.len() && columns <= stride, "bf16: output");
    let target = Target { data: to.as_mut_ptr(), stride, rows: Rows::From(0), turned: false };
    // SAFETY: all rows were bounded, and the destination is uniquely borrowed.
    unsafe { multiply(session, (strips, panels, depth), [rows, columns], target, initial) };
}

/// A block of sums.
struct Block {
    row: usize,
    column: usize,
    height: usize,
    width: usize,
}

impl Block {
    /// # Safety
    /// As [`multiply`].
    unsafe fn add(
        &self,
        session: &Session,
        operands: (*const u16, *const u16, usize),
        target: Target<'_>,
        initial: Initial<'_>,
    ) {
        let tiles = [self.height.div_ceil(16), self.width.div_ceil(16)];
        let whole = self.height == 16 * tiles[0] && self.width == 16 * tiles[1];
        let fresh = matches!(initial, Initial::Zero);
        let bias =
            if let Initial::Bias(b) = initial { &b[self.column..][..self.width] } else { &[] };
        if let (Rows::From(first), true, false) = (target.rows, whole, target.turned) {
            // SAFETY: the caller's promise.
            unsafe {
                let c = target.data.add((first + self.row) * target.stride + self.column);
                if !bias.is_empty() {
                    for i in 0..self.height {
                        c.add(i * target.stride)
                            .copy_from_nonoverlapping(bias.as_ptr(), self.width);
                    }
                }
                session.add(operands, (c, target.stride), tiles, fresh);
            }
            return;
        }
        let mut beside = [0.0f32; BLOCK * BLOCK];
        let place = |i: usize, j: usize| {
            let row = index(target.rows, self.row + i).unwrap_or(0);
            let (row, column) =
                if target.turned { (self.column + j, row) } else { (row, self.column + j) };
            target.data.wrapping_add(row * target.stride + column)
        };
        for i in 0..self.height {
            let to = &mut beside[i * BLOCK..][..self.width];
            match initial {
                Initial::Zero => {}
                Initial::Bias(_) => to.copy_from_slice(bias),
                Initial::Old => {
                    // SAFETY: the caller's promise.
                    to.iter_mut().enumerate().for_each(|(j, v)| *v = unsafe { *place(i, j) });
                }
            }
        }
        // SAFETY: a whole block lies beside.
        unsafe { session.add(operands, (beside.as_mut_ptr(), BLOCK), tiles, fresh) };
        for i in 0..self.height {
            for (j, v) in beside[i * BLOCK..][..self.width].iter().enumerate() {
                // SAFETY: the caller's promise.
                unsafe { *place(i, j) = *v };
            }
        }
    }
}
