//! Vision transformers: CLIP's image tower, DINO, DINOv2 (registers, SwiGLU), BLIP's; one straight line.

mod config;
mod model;
mod positions;
mod shapes;

pub use config::{Positions, Vit, activation, grid};
pub use model::{first_rows, picked, vit};
pub use positions::resized;
pub use shapes::Original;
