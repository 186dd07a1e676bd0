mod schedule;

pub use schedule::{Sampler, Schedule, Spacing};
