//! Cutting subjects out of photos: boxes of what words name, the photo as the network takes it, the prompt, the mask at the photo's size (methods.md §1.2, §3.5, §3.6).

pub mod detector;
pub mod frame;
pub mod overlay;
pub mod prompt;
pub mod segmenter;
pub mod words;
