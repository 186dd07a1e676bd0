//! From values of parameters to values of stored tensors: q, k and v that lie in one, a convolution that was read
//! with its normalization.

use super::Checkpoint;

impl Checkpoint {
    /// The gradient of the stored tensor from that of the parameter `name` (no component prefix), where the parameter
    /// is the tensor with its rows scaled; else the parameter's.
    pub fn chained(&self, name: &str, mut gradient: Vec<f32>) -> Vec<f32> {
        if let Some(slot) = self.slots.get(name) {
            slot.scale(&mut gradient);
        }
        gradient
    }

    /// Values of a whole stored tensor from `parts`, values of the parameters (by their own names, no component prefix)
    /// that lie in it; with its dims. `None` where these are not all of it.
    pub fn stacked(&self, parts: &[(&str, &[f32])]) -> Option<(Vec<usize>, Vec<f32>)> {
        let slots: Vec<_> =
            parts.iter().map(|(name, _)| self.slots.get(*name)).collect::<Option<_>>()?;
        let mut dims = slots.first()?.dims.clone();
        let rows = dims.first_mut()?;
        *rows = slots.iter().map(|s| s.dims.first().copied().unwrap_or(0)).sum();
        let mut whole = vec![0.0; dims.iter().product()];
        let filled = slots.iter().zip(parts).all(|(slot, (_, own))| slot.put_back(&mut whole, own));
        (parts.len() == 3 && filled).then_some((dims, whole))
    }
}
