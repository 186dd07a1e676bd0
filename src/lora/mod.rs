//! Low-rank adapters: which modules carry them, their files in every convention in use, merging and
//! extraction.

mod adapters;
mod alpha;
mod layer;
mod merge;
mod modules;
mod read;
mod sgm;
mod source;
mod write;

pub use adapters::{Adapter, Adapters, down_name, up_name};
pub use layer::{DECOUPLING_KEY, DECOUPLING_PREFIX, Layer, Lora, METHOD_KEY, WORDS_KEY};
pub use merge::{Merged, delta, extract, merge};
pub use modules::Modules;
pub use sgm::{Sgm, renamed};
pub use source::{LoraFile, Loras};
pub use write::Convention;
