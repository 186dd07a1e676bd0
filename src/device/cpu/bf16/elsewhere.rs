//! What stands for the units on processors without any: nothing can be made of it, so nothing here ever runs.

use super::{
    super::{pack::Unpacked, product::Left},
    shape::Form,
};
use std::ops::Range;

/// What multiplies bf16 numbers: nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {}

impl Unit {
    /// The word for reports.
    pub fn name(self) -> &'static str {
        match self {}
    }
}

/// A unit at work.
pub struct Session(Unit);

impl Session {
    /// Of a unit.
    pub fn new(unit: Unit) -> Self {
        match unit {}
    }

    /// # Safety
    /// None is needed.
    pub unsafe fn add(
        &self,
        _: (*const u16, *const u16, usize),
        _: (*mut f32, usize),
        _: [usize; 2],
        _: bool,
    ) {
        match self.0 {}
    }
}

/// Not called: a sum has a unit.
pub fn pack_columns(_: &mut [u16], _: &Unpacked<'_>, _: usize, _: Range<usize>, _: Form) {
    unreachable!("bf16: no unit")
}

/// Not called: a sum has a unit.
pub fn pack_rows(_: &mut [u16], _: &Left<'_>, _: (Range<usize>, usize), _: Range<usize>) {
    unreachable!("bf16: no unit")
}
