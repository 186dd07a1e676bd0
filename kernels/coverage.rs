//! Which kernels there must be: the folders list them, and every chip is asked for them.
//!
//! An operation has kernels for forward and backward (unless [`Op::forward_only`](crate::op::Op::forward_only)
//! says why not), in the element types of [`Op::types`](crate::op::Op::types), on every target that a build
//! compiles for. A rehearsal ([`Cuda::rehearsal`]) runs the cases without a chip: it chooses as the chip would
//! and looks the kernels up in the objects made for it.

use super::{
    case::Case,
    compare::{exists, rehearse},
};
use crate::{
    device::{
        Cuda, cubin,
        cubin_table::{OBJECTS, Object, Target},
    },
    error::Result,
    tensor::DType,
};
use std::collections::{BTreeMap, BTreeSet};

/// What an operation's cases show of it.
#[derive(Default)]
struct Shown {
    backward: bool,
    /// Whether there is something to differentiate: floats in and floats out.
    differentiable: bool,
    types: usize,
}

/// What the cases leave out of what the folders list: an operation without a backward case that does not say it
/// has no backward pass, an element type that no case is in or that is refused although it is listed.
pub fn unlisted(cases: &[Case]) -> Vec<String> {
    let mut all: BTreeMap<String, (Shown, &Case)> = BTreeMap::new();
    let mut problems = vec![];
    for case in cases {
        // The folder may hold several operations; the type's own name tells them apart.
        let text = format!("{:?}", case.op);
        let kind = text.split([' ', '(', '{']).next().unwrap_or_default();
        let key = format!("{} ({kind})", case.op.name());
        let (shown, _) = all.entry(key).or_insert((Shown::default(), case));
        shown.backward |= case.grads.contains(&true);
        let floats_in = case.ins.iter().any(|s| s.dtype != DType::I32);
        let out = case.op.infer(&case.ins).map(|s| s.out.dtype);
        shown.differentiable |= floats_in && out.is_ok_and(|t| t != DType::I32);
        for dtype in DType::FLOATS {
            let found = case.op.infer(&case.specs(dtype));
            match (exists(case, dtype), found) {
                (true, Ok(_)) => shown.types += 1,
                (true, Err(e)) => problems.push(format!("{} in {dtype}: {e}", case.name)),
                (false, _) => {}
            }
        }
    }
    for (op, (shown, case)) in &all {
        if shown.differentiable && !shown.backward && case.op.forward_only().is_none() {
            problems
                .push(format!("{op}: no case has a gradient, and forward_only() gives no reason"));
        }
        if shown.types == 0 {
            problems.push(format!("{op}: no case in any element type"));
        }
    }
    problems
}

/// What a chip of `target` would be asked for by `cases`.
#[derive(Debug, Default)]
pub struct Asked {
    /// Calls for which it lacks a kernel: case, element type, kernel.
    pub missing: Vec<String>,
    /// Names of the kernels it would launch.
    pub kernels: BTreeSet<&'static str>,
}

/// Rehearses `cases` in every listed element type on a chip of `target`, without the kernels named in `left_out`.
///
/// # Errors
/// Those of the emulated driver, which the feature `emulate` brings.
pub fn rehearse_all(cases: &[Case], target: Target, left_out: &[String]) -> Result<Asked> {
    let cuda = Cuda::rehearsal(target)?;
    cuda.leave_out(left_out);
    let mut missing = vec![];
    for case in cases {
        for dtype in DType::FLOATS.into_iter().filter(|d| exists(case, *d)) {
            let lacks = rehearse(case, dtype, &cuda)?;
            missing.extend(lacks.map(|l| format!("{} {dtype} {}: {l}", case.name, target.name())));
        }
    }
    Ok(Asked { missing, kernels: cuda.rehearsed() })
}

/// Names of the kernels that a chip of `target` would launch for `cases` when every variant is forced once, wherever
/// it applies: those that only models' sizes or a `--variant` choose.
///
/// # Errors
/// As [`rehearse_all`].
pub fn rehearse_variants(cases: &[Case], target: Target) -> Result<BTreeSet<&'static str>> {
    let cuda = Cuda::rehearsal(target)?;
    for slot in super::slots() {
        for variant in &slot.variants {
            cuda.force_variant(slot.name, variant);
            for case in cases.iter().filter(|c| c.op.name() == slot.operation()) {
                for dtype in DType::FLOATS.into_iter().filter(|d| exists(case, *d)) {
                    rehearse(case, dtype, &cuda)?; // what is missing is rehearse_all's to say
                }
            }
        }
    }
    Ok(cuda.rehearsed())
}

/// Every kernel of this build for `target`, but those that test the emulator. PTX has no symbol table: its kernels
/// are those of the same source compiled for sm_80.
///
/// # Errors
/// A damaged object.
pub fn compiled(target: Target) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    let target = if target == Target::Ptx { Target::Sm80 } else { target };
    let own = |o: &&Object| o.target == target && !o.source.starts_with("emulator/");
    for object in OBJECTS.iter().filter(own) {
        let kernels = cubin::read(object.source, object.image())?;
        names.extend(kernels.into_iter().map(|k| k.name));
    }
    Ok(names)
}
