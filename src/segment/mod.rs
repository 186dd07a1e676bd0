//! Cutting subjects out of photos: the photo as the network takes it, the prompt, the mask at the photo's size (methods.md §3.6).

pub mod frame;
pub mod overlay;
pub mod prompt;
pub mod segmenter;
