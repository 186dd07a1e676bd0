//! Scores of pictures of several subjects (methods.md §1.8 to §1.10): from numbers, and from the pictures themselves.

pub mod correlation;
pub mod crops;
pub mod detect_compare;
pub mod embedder;
pub mod interval;
pub mod judge;
pub mod orders;
pub mod similarity;
pub mod study;
pub mod texts;
