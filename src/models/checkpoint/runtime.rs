//! Stored parameters as programs read them: from the map where the order fits, else converted once.

use super::store::Slot;
use crate::{
    device::Pool,
    error::Result,
    plan::{StoredBytes, WeightLayout, rounded},
    tensor::{DType, Floats},
};
use std::sync::Arc;

/// How the stored order becomes the runtime order.
enum Order {
    /// The same numbers in the same order.
    Same,
    /// Matrices `[from, to]`, one after another, to `[to, from]`.
    Swapped([usize; 2]),
    /// Another order: converted from f32.
    Other,
}

/// What `layout` does to a parameter of runtime `dims`.
fn order(layout: WeightLayout, dims: &[usize]) -> Order {
    match (layout, dims) {
        (WeightLayout::Conv, [_, h, w, i]) if h * w > 1 && *i > 1 => Order::Swapped([*i, h * w]),
        (WeightLayout::Transposed, [o, i]) => Order::Swapped([*i, *o]),
        (WeightLayout::Depthwise, [h, w, c]) => Order::Swapped([*c, h * w]),
        (WeightLayout::ConvTransposed, _) => Order::Other,
        _ => Order::Same,
    }
}

/// The parameter as f32 in runtime layout: the mapped file itself where it holds just that, else a piece of
/// `pool`, converted on every core.
pub fn floats(slot: &Slot, dims: &[usize], layout: WeightLayout, pool: &Pool) -> Result<Floats> {
    let order = order(layout, dims);
    let stored = if let Order::Other = order { None } else { slot.stored()? };
    let Some(mut stored) = stored else {
        return Ok(layout.to_runtime(dims, slot.read()?.data).into());
    };
    if let Order::Same = order {
        match stored.floats() {
            Ok(floats) => return Ok(floats),
            Err(again) => stored = again,
        }
    }
    pool.make(dims.iter().product(), |out| {
        match order {
            Order::Same => stored.widen(out),
            Order::Swapped(from_to) => stored.widen_swapped(from_to, out),
            Order::Other => unreachable!("checkpoint: read as f32 above"),
        }
        Ok(())
    })
}

/// The parameter in runtime layout as the file stores it, where that is `dtype`.
pub fn bytes(
    slot: &Slot,
    dims: &[usize],
    layout: WeightLayout,
    dtype: DType,
) -> Result<Option<StoredBytes>> {
    let Some(stored) = slot.stored()?.filter(|s| s.is(dtype)) else { return Ok(None) };
    Ok(match order(layout, dims) {
        Order::Same => Some(Arc::new(stored)),
        Order::Swapped(from_to) => Some(Arc::new(stored.swapped(from_to))),
        Order::Other => None,
    })
}

/// The parameter in runtime layout as `dtype`, 16 bits wide: the mapped file itself where it holds just that at an even
/// address, else rounded from f32.
pub fn halves(
    slot: &Slot,
    dims: &[usize],
    layout: WeightLayout,
    dtype: DType,
    pool: &Pool,
) -> Result<StoredBytes> {
    let even = |bytes: &StoredBytes| (**bytes).as_ref().as_ptr().addr().is_multiple_of(2);
    match bytes(slot, dims, layout, dtype)?.filter(even) {
        Some(stored) => Ok(stored),
        None => Ok(rounded(&floats(slot, dims, layout, pool)?, dtype)),
    }
}
