//! What the values of an integer input may be: checked where they are fed, before anything runs.

use super::{Plan, record::Class};
use crate::error::{Error, Result};
use std::collections::HashMap;

/// The strictest range that the readers of an input ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    what: &'static str,
    below: usize,
}

/// The limits of `plan`'s inputs, by value.
pub(super) fn limits(plan: &Plan) -> HashMap<usize, Limit> {
    let mut all: HashMap<usize, Limit> = HashMap::new();
    for node in &plan.nodes {
        for read in node.op.indices(&node.specs) {
            let Some(value) = node.ins.get(read.input) else { continue };
            let root = plan.rec.slots[value.0].root;
            if matches!(plan.rec.slots[root].class, Class::Input { .. }) {
                let limit = Limit { what: read.what, below: read.below };
                let known = all.entry(root).or_insert(limit);
                if limit.below < known.below {
                    *known = limit;
                }
            }
        }
    }
    all
}

impl Limit {
    /// Refuses `data` of the input `name` with a value outside the range.
    pub fn check(&self, name: &str, data: &[i32]) -> Result<()> {
        let inside = |i: &i32| usize::try_from(*i).is_ok_and(|i| i < self.below);
        match data.iter().find(|i| !inside(i)) {
            None => Ok(()),
            Some(bad) => Err(Error::Data {
                at: format!("input {name}"),
                found: format!("{} {bad}", self.what),
                expected: format!("0 to {}", self.below.saturating_sub(1)),
                fix: "check that the values belong to this model (its own tokenizer, its schedule)"
                    .into(),
            }),
        }
    }
}
