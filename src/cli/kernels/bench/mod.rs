//! `selvedge kernels bench`: time of kernels, against the chip's limits, a library, or one another.

mod bed;
mod launch;
mod report;
mod roofline;
mod stats;
mod yardstick;

use super::{
    super::common::{Kernels, dtype, note},
    isolate::{self, Event, Isolate, Role, Teller},
};
use crate::{
    cli::chips::Chip,
    device::{Blas, Cuda},
    error::{Error, Result},
    kernels::{case::Case, slots, variant},
    tensor::DType,
};
pub(super) use bed::{Bed, Pass, in_turns};
use clap::ValueEnum;
use launch::{LaunchCost, Launcher};
use report::{Row, Told};
use stats::Comparison;
pub(super) use stats::median;
use std::{path::PathBuf, sync::Arc};

/// Runs of a graph, a millisecond or more each, before those that count: clocks and caches settle.
const WARM_UP: usize = 10;
/// The emulator's cases are kept below this.
const EMULATED_FLOP: f64 = 2e7;

/// Measures kernels.
///
/// Example: selvedge kernels bench --device cuda --op linear --dtype bf16 --svg roofline.svg
#[derive(Clone, Debug, clap::Args)]
pub struct Bench {
    /// Where: cuda[:N] or emulated (its times are its own, not a GPU's; small cases only).
    #[arg(long, default_value = "cuda", value_name = "DEVICE")]
    device: String,
    /// Only cases whose name contains this.
    #[arg(long, default_value = "", value_name = "TEXT")]
    op: String,
    /// Element types (repeatable): f32, bf16, f16; bf16 by default, f32 where there is only that.
    #[arg(long, value_name = "TYPE")]
    dtype: Vec<String>,
    /// Which passes.
    #[arg(long, value_enum, default_value_t = Which::Both)]
    pass: Which,
    /// Measured runs of each; the median counts.
    #[arg(long, default_value_t = 30, value_name = "N")]
    iterations: usize,
    /// Measure two variants in turns, such as attention.forward=sm90,sm80.
    #[arg(long, value_name = "OP=A,B")]
    compare: Option<String>,
    /// Measure the built-in kernels and those of --kernel-dir or --kernel-source in turns.
    #[arg(long)]
    against_built_in: bool,
    /// Who launches: own, or cust for the launch cost of both side by side.
    #[arg(long, value_enum, default_value_t = Launcher::Own)]
    launcher: Launcher,
    /// The small cases of the tests instead of the models' shapes.
    #[arg(long)]
    small: bool,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
    /// Whether a hang or a crash ends the measuring.
    #[command(flatten)]
    isolate: Isolate,
    /// Write a roofline plot.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Kernels to measure instead of the built-in ones.
    #[command(flatten)]
    kernels: Kernels,
}

/// Passes to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Which {
    /// Forward only.
    Forward,
    /// Backward only, all gradients together.
    Backward,
    /// Forward, and backward with all gradients.
    Both,
    /// Forward, and backward with each gradient alone too.
    Each,
}

impl Which {
    fn passes(self, grads: &[bool]) -> Vec<Pass> {
        let mut passes = vec![];
        if self != Which::Backward {
            passes.push(Pass::Forward);
        }
        let wanted: Vec<usize> = (0..grads.len()).filter(|i| grads[*i]).collect();
        if self != Which::Forward && !wanted.is_empty() {
            passes.push(Pass::Backward(grads.to_vec()));
        }
        if self == Which::Each && wanted.len() > 1 {
            let only = |i: &usize| Pass::Backward((0..grads.len()).map(|j| j == *i).collect());
            passes.extend(wanted.iter().map(only));
        }
        passes
    }
}

/// What is measured against what.
enum Rivals {
    /// One kernel.
    None,
    /// Two variants of a slot.
    Variants { slot: String, names: [String; 2] },
    /// Built in, then from files.
    Files,
}

/// Everything that the cases share.
struct Session<'a> {
    args: &'a Bench,
    cuda: Arc<Cuda>,
    emulated: bool,
    chip: Option<Chip>,
    blas: Option<Blas>,
    rivals: Rivals,
}

/// What is measured, in order.
struct Work {
    cases: Vec<Case>,
    items: Vec<(usize, DType)>,
}

impl Work {
    fn new(args: &Bench) -> Result<Self> {
        let dtypes = args.dtype.iter().map(|d| dtype(d)).collect::<Result<Vec<_>>>()?;
        let emulated = args.device.starts_with("emulated");
        let small = args.small || emulated;
        let all = if small { crate::kernels::cases() } else { crate::kernels::bench_cases() };
        let fits = |c: &Case| {
            let flop = || Some(c.op.cost(&c.ins, &c.op.infer(&c.ins).ok()?.out).flop);
            !emulated || flop().is_some_and(|f| f <= EMULATED_FLOP)
        };
        let wanted = |c: &Case| c.name.contains(&args.op) && fits(c);
        let cases: Vec<Case> = all.into_iter().filter(wanted).collect();
        let of = |(i, c): (usize, &Case)| types_of(c, &dtypes).into_iter().map(move |d| (i, d));
        let items: Vec<_> = cases.iter().enumerate().flat_map(of).collect();
        if items.is_empty() {
            return Err(Error::Config {
                key: "--op".into(),
                found: args.op.clone(),
                expected: "part of the name of a case, in an element type that it has".into(),
                fix: "leave --op out, or try --small".into(),
            });
        }
        Ok(Self { cases, items })
    }
}

/// Runs the command; exit code 1 when a kernel left a result unwritten or broke its case.
///
/// # Errors
/// A device that cannot be opened, a driver error, flags that do not fit together.
pub fn run(args: &Bench) -> Result<u8> {
    let work = Work::new(args)?;
    rivals(args)?;
    launch::allow(args.launcher, args.kernels.programmatic)?;
    let mut told = Told::new(args);
    match args.isolate.role(&args.device) {
        Role::Child(from) => {
            let session = open(args, from)?;
            let teller = Teller::new(&session.cuda);
            for (i, (case, dtype)) in work.items.iter().enumerate().skip(from) {
                teller.begin(i);
                teller.end(i, session.told(&work.cases[*case], *dtype));
            }
            teller.done(&serde_json::Value::Null);
            return Ok(0);
        }
        Role::Alone => {
            let session = open(args, 0)?;
            told.header();
            for (case, dtype) in &work.items {
                let case = &work.cases[*case];
                match session.told(case, *dtype) {
                    Err(e @ Error::NoKernel { .. }) => {
                        told.broken(&case.name, *dtype, None, &e.to_string());
                    }
                    rows => told.rows(&rows?),
                }
            }
        }
        Role::Parent(limit) => {
            told.header();
            isolate::run(work.items.len(), limit, |event| match event {
                Event::End(_, rows) => told.rows(&rows),
                Event::Broken(i, kernel, how) => {
                    let (case, dtype) = work.items[i];
                    told.broken(&work.cases[case].name, dtype, kernel.as_deref(), &how);
                }
                Event::Done(_) => {}
            })?;
        }
    }
    told.finish()
}

/// The types asked for; else the usual one, or f32 where the operation has no other.
fn types_of(case: &Case, asked: &[DType]) -> Vec<DType> {
    if !asked.is_empty() {
        return asked.iter().copied().filter(|d| case.op.types().contains(d)).collect();
    }
    let usual = DType::Bf16;
    vec![if case.op.types().contains(&usual) { usual } else { DType::F32 }]
}

/// The device and what is there to compare with; the first process that opens it says so.
fn open(args: &Bench, from: usize) -> Result<Session<'_>> {
    let rivals = rivals(args)?;
    // Files that are compared with the built-in kernels come in later.
    let none = Kernels { programmatic: args.kernels.programmatic, ..Kernels::default() };
    let at_once = if args.against_built_in { &none } else { &args.kernels };
    let cuda = super::open(&args.device, at_once)?;
    if args.launcher == Launcher::Cust {
        launch::open(&cuda)?;
    }
    let emulated = cuda.name() == "emulated";
    let chip = if emulated { Chip::h200() } else { Chip::of(cuda.chip()) };
    let blas = if emulated { None } else { cuda.blas()? };
    if from > 0 {
        return Ok(Session { args, cuda, emulated, chip, blas, rivals });
    }
    note(&format!("{} ({}, {})", cuda.name(), cuda.chip(), cuda.target().name()));
    if emulated {
        note("times are the emulator's on this processor; only `floor`, of an H200, is a GPU's");
    } else {
        let found = if blas.is_some() { "compared with linear" } else { "not installed" };
        note(&format!("cuBLAS: {found}; cuDNN: not compared"));
    }
    Ok(Session { args, cuda, emulated, chip, blas, rivals })
}

fn rivals(args: &Bench) -> Result<Rivals> {
    let files = args.kernels.kernel_dir.is_some() || !args.kernels.kernel_sources.is_empty();
    let wrong = |key: &str, found: &str, expected: &str| {
        let fix = "see `selvedge kernels bench --help`".into();
        Err(Error::Config { key: key.into(), found: found.into(), expected: expected.into(), fix })
    };
    if args.against_built_in {
        return match (files, &args.compare) {
            (true, None) => Ok(Rivals::Files),
            _ => wrong(
                "--against-built-in",
                "no kernels from files, or --compare too",
                "--kernel-dir or --kernel-source",
            ),
        };
    }
    let Some(word) = &args.compare else { return Ok(Rivals::None) };
    let parts = word.split_once('=').and_then(|(slot, names)| Some((slot, names.split_once(',')?)));
    match parts {
        Some((slot, (a, b))) if !slot.is_empty() && !a.is_empty() && !b.is_empty() => {
            let known = slots();
            [a, b].iter().try_for_each(|name| variant::check(&format!("{slot}={name}"), &known))?;
            Ok(Rivals::Variants { slot: slot.into(), names: [a.into(), b.into()] })
        }
        _ => wrong("--compare", word, "OP=A,B, such as attention.forward=sm90,sm80"),
    }
}

impl Session<'_> {
    /// The rows of one case, as [`Told`] reads them.
    fn told(&self, case: &Case, dtype: DType) -> Result<serde_json::Value> {
        let rows = self.measure(case, dtype)?;
        Ok(rows.iter().map(|row| self.tell(row)).collect())
    }

    /// The rows of one case; none where there is nothing to compute.
    fn measure(&self, case: &Case, dtype: DType) -> Result<Vec<Row>> {
        let empty = case.ins.iter().any(|s| s.is_empty());
        let bed = Bed::new(case, dtype, &self.cuda, self.emulated)?;
        if empty || bed.signature.out.is_empty() {
            return Ok(vec![]);
        }
        let mut rows = vec![];
        for pass in self.args.pass.passes(&case.grads) {
            rows.push(self.row(&bed, &pass, dtype)?);
        }
        Ok(rows)
    }

    fn row(&self, bed: &Bed<'_>, pass: &Pass, dtype: DType) -> Result<Row> {
        let (case, out) = (bed.case, &bed.signature.out);
        let cost = match pass {
            Pass::Forward => case.op.cost(&bed.specs, out),
            Pass::Backward(wants) => case.op.backward_cost(&bed.specs, out, wants),
        };
        let verdict = self.duel(bed, pass)?;
        let call = |copy| bed.run(copy, pass);
        let launches = bed.launches(self.emulated, &call)?;
        let (cold, warm) = (bed.graph(launches, true, &call)?, bed.graph(launches, false, &call)?);
        let times = in_turns(&[&cold, &warm], self.warm_up(), self.iterations())?;
        let problem = bed.unwritten(pass)?;
        let backward = *pass != Pass::Forward;
        Ok(Row {
            case: case.name.clone(),
            op: case.op.name(),
            dims: case.ins.iter().map(|s| s.dims.clone()).collect(),
            dtype,
            pass: pass.name(&case.grads),
            variant: case.op.variant(&self.cuda, &bed.specs, out, backward),
            cold: bed.cold,
            cold_ms: median(&times[0]),
            cold_range: stats::interval(&times[0]),
            warm_ms: median(&times[1]),
            cost,
            blas_ms: self.blas_ms(bed, pass, dtype)?,
            launch: self.launch_cost(bed, pass)?,
            verdict,
            problem,
        })
    }

    fn warm_up(&self) -> usize {
        if self.emulated { 1 } else { WARM_UP }
    }

    fn iterations(&self) -> usize {
        let n = self.args.iterations.max(1);
        if self.emulated { n.min(5) } else { n }
    }

    /// Times of the same product by cuBLAS, with operands that are not in the cache.
    fn blas_ms(&self, bed: &Bed<'_>, pass: &Pass, dtype: DType) -> Result<Option<f64>> {
        let Some(blas) = &self.blas else { return Ok(None) };
        if yardstick::products(bed, pass, 0, dtype).is_empty() {
            return Ok(None);
        }
        let call = |copy| {
            let products = yardstick::products(bed, pass, copy, dtype);
            products.iter().try_for_each(|p| blas.multiply(p))
        };
        let launches = bed.launches(self.emulated, &call)?;
        let graph = bed.graph(launches, true, &call)?;
        let times = in_turns(&[&graph], self.warm_up(), self.iterations())?;
        Ok(Some(median(&times[0])))
    }

    /// The launch cost by both launchers where it was asked for; why cust cannot launch this otherwise.
    fn launch_cost(&self, bed: &Bed<'_>, pass: &Pass) -> Result<Option<Result<LaunchCost>>> {
        if self.args.launcher == Launcher::Own {
            return Ok(None);
        }
        match launch::cost(&self.cuda, bed, pass, self.iterations()) {
            Err(e @ Error::Plan { .. }) => Ok(Some(Err(e))),
            cost => cost.map(|c| Some(Ok(c))),
        }
    }

    /// Measures two rivals in turns.
    fn duel(&self, bed: &Bed<'_>, pass: &Pass) -> Result<Option<(Comparison, String)>> {
        let call = |copy| bed.run(copy, pass);
        let launches = || bed.launches(self.emulated, &call);
        let names: [&str; 2] = match &self.rivals {
            Rivals::None => return Ok(None),
            Rivals::Variants { names: [a, b], .. } => [a, b],
            Rivals::Files => ["built-in", "files"],
        };
        let mut graphs = vec![];
        for (i, name) in names.iter().enumerate() {
            match &self.rivals {
                Rivals::Variants { slot, .. } => self.cuda.force_variant(slot, name),
                Rivals::Files if i == 0 => self.cuda.swap_back(),
                _ => drop(self.args.kernels.apply(&self.cuda)?),
            }
            if let Rivals::Variants { slot, .. } = &self.rivals {
                let backward = *pass != Pass::Forward;
                let out = &bed.signature.out;
                let chosen = bed.case.op.variant(&self.cuda, &bed.specs, out, backward);
                if !chosen.contains(name) {
                    let told = format!("{slot}={name} does not apply here ({chosen})");
                    let none = Comparison { ratio: f64::NAN, low: f64::NAN, high: f64::NAN };
                    return Ok(Some((none, told)));
                }
            }
            graphs.push(bed.graph(launches()?, true, &call)?);
        }
        let both: Vec<_> = graphs.iter().collect();
        let times = in_turns(&both, self.warm_up(), self.iterations())?;
        let comparison = Comparison::of(&times[0], &times[1]);
        Ok(Some((comparison, comparison.verdict(names[0], names[1]))))
    }
}
