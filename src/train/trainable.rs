//! What was trained, for whoever writes or samples it.

/// One trained tensor in the layout of published checkpoints.
#[derive(Clone, Debug, PartialEq)]
pub struct Trainable {
    /// Full name, `unet.` first; adapters as peft names them.
    pub name: String,
    /// Checkpoint dims.
    pub dims: Vec<usize>,
    /// Values.
    pub data: Vec<f32>,
}
