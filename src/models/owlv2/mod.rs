//! OWLv2: CLIP's towers, and heads that give every patch a box and its likeness to texts.

mod config;
mod model;
mod photo;

pub use config::Owlv2;
pub use model::owlv2;
pub use photo::{Padding, photo_pixels};
