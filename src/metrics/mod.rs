//! Scores of pictures of several subjects (methods.md §1.8, §1.9).

pub mod correlation;
pub mod detect_compare;
pub mod similarity;
pub mod study;
