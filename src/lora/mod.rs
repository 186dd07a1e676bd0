//! Low-rank adapters: their files in every convention in use, merging and extraction.

mod sgm;

pub use sgm::{Sgm, renamed};
