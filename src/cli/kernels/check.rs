//! `selvedge kernels check`.

use super::{
    super::common::{Kernels, dtype, note, out},
    isolate::{self, Event, Isolate, Role, Teller},
};
use crate::{
    device::Cuda,
    error::{Error, Result},
    kernels::{
        case::Case,
        compare::{Outcome, exists, for_each_reference},
    },
    tensor::DType,
};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

/// Cases of more multiply-adds than this come after the small ones of every kernel.
const LARGE_FLOP: f64 = 1e6;

/// Flags of `check`.
#[derive(Clone, Debug, clap::Args)]
pub struct Check {
    /// Where: cuda[:N] or emulated[:early|:late|:random:SEED].
    #[arg(long, default_value = "cuda", value_name = "DEVICE")]
    device: String,
    /// Only cases whose name contains this.
    #[arg(long, default_value = "", value_name = "TEXT")]
    op: String,
    /// Element types (repeatable): f32, bf16, f16; all by default.
    #[arg(long, value_name = "TYPE", default_values = ["f32", "bf16", "f16"])]
    dtype: Vec<String>,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
    /// Whether a hang or a crash ends the check.
    #[command(flatten)]
    isolate: Isolate,
    /// Kernels to check instead of the built-in ones.
    #[command(flatten)]
    kernels: Kernels,
}

/// Comparisons so far.
#[derive(Default)]
struct Tally {
    compared: usize,
    failed: usize,
}

/// What is compared: cases, small ones of every operation first, and the element types of each.
struct Work {
    cases: Vec<Case>,
    dtypes: Vec<DType>,
    /// Case and type of each item, in order.
    items: Vec<(usize, DType)>,
}

impl Work {
    fn new(op: &str, dtypes: Vec<DType>) -> Self {
        let mut cases: Vec<Case> =
            crate::kernels::cases().into_iter().filter(|c| c.name.contains(op)).collect();
        let large = |c: &Case| {
            let out = c.op.infer(&c.ins).map(|s| s.out);
            out.is_ok_and(|out| c.op.cost(&c.ins, &out).flop > LARGE_FLOP)
        };
        cases.sort_by_key(large);
        let of = |(i, c): (usize, &Case)| {
            let own: Vec<_> = dtypes.iter().filter(|d| exists(c, **d)).map(|d| (i, *d)).collect();
            own
        };
        let items = cases.iter().enumerate().flat_map(of).collect();
        Self { cases, dtypes, items }
    }

    /// Compares the items from `from` on; `each` gets their number and what came out.
    fn run(
        &self,
        cuda: &Arc<Cuda>,
        from: usize,
        begin: impl Fn(usize),
        mut each: impl FnMut(usize, Result<Outcome>) -> Result<()>,
    ) -> Result<Duration> {
        let first = self.items.get(from).map_or(self.cases.len(), |(case, _)| *case);
        let cases: Vec<&Case> = self.cases[first..].iter().collect();
        let mut next = from;
        for_each_reference(&cases, &self.dtypes, |i, reference| {
            while let Some((_, dtype)) = self.items.get(next).filter(|(c, _)| *c == first + i) {
                begin(next);
                each(next, reference.compare(*dtype, cuda))?;
                next += 1;
            }
            Ok(())
        })
    }
}

impl Check {
    /// Compares; exit code 1 when a result is wrong or a kernel is missing.
    ///
    /// # Errors
    /// A device that cannot be opened, a driver error, a filter that fits nothing.
    pub fn run(&self) -> Result<u8> {
        let dtypes = self.dtype.iter().map(|d| dtype(d)).collect::<Result<Vec<_>>>()?;
        let work = Work::new(&self.op, dtypes);
        if work.items.is_empty() {
            return Err(Error::Config {
                key: "--op".into(),
                found: self.op.clone(),
                expected: "part of the name of a case, in an element type that it has".into(),
                fix: "leave --op and --dtype out; `selvedge kernels list` shows the kernels".into(),
            });
        }
        let mut tally = Tally::default();
        let busy = match self.isolate.role(&self.device) {
            Role::Child(from) => return self.child(&work, from),
            Role::Alone => {
                let cuda = self.open(0)?;
                work.run(
                    &cuda,
                    0,
                    |_| {},
                    |i, outcome| {
                        self.print(&work, i, &told(&outcome?), &mut tally);
                        Ok(())
                    },
                )?
            }
            Role::Parent(limit) => self.parent(&work, limit, &mut tally)?,
        };
        note(&format!(
            "{} comparisons, {} failed; the CPU's results took {:.1} s of its threads",
            tally.compared,
            tally.failed,
            busy.as_secs_f64()
        ));
        Ok(u8::from(tally.failed > 0))
    }

    /// The device; the first process that opens it says which.
    fn open(&self, from: usize) -> Result<Arc<Cuda>> {
        let cuda = super::open(&self.device, &self.kernels)?;
        if from == 0 {
            note(&format!("{} ({}, {})", cuda.name(), cuda.chip(), cuda.target().name()));
        }
        Ok(cuda)
    }

    fn child(&self, work: &Work, from: usize) -> Result<u8> {
        let cuda = self.open(from)?;
        let teller = Teller::new(&cuda);
        let begin = |i| teller.begin(i);
        let busy = work.run(&cuda, from, begin, |i, outcome| {
            teller.end(i, outcome.map(|o| told(&o)));
            Ok(())
        })?;
        teller.done(&json!(busy.as_secs_f64()));
        Ok(0)
    }

    fn parent(&self, work: &Work, limit: Duration, tally: &mut Tally) -> Result<Duration> {
        let mut busy = Duration::ZERO;
        isolate::run(work.items.len(), limit, |event| match event {
            Event::End(i, result) => self.print(work, i, &result, tally),
            Event::Broken(i, kernel, how) => {
                let kernel = kernel.unwrap_or_else(|| "before its first kernel".into());
                let broken = json!({"word": "BROKEN", "detail": format!("{kernel}: {how}")});
                self.print(work, i, &broken, tally);
            }
            Event::Done(seconds) => {
                busy = Duration::from_secs_f64(seconds.as_f64().unwrap_or(0.0));
            }
        })?;
        Ok(busy)
    }

    /// Writes one line.
    fn print(&self, work: &Work, item: usize, result: &Value, tally: &mut Tally) {
        let Some((case, dtype)) = work.items.get(item) else { return };
        let (name, dtype) = (&work.cases[*case].name, dtype.to_string());
        let (word, detail) = (text(&result["word"]), text(&result["detail"]));
        let ok = word == "ok";
        tally.compared += 1;
        tally.failed += usize::from(!ok);
        out(&match self.json {
            true => {
                let line = json!({
                    "case": name, "dtype": dtype, "ok": ok, "word": word,
                    "error": result["error"], "detail": detail,
                });
                format!("{line}\n")
            }
            false => format!("{word:<7} {dtype:<4} {name}: {detail}\n"),
        });
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A word for an outcome, the share of the allowed error and the rest.
fn told(outcome: &Outcome) -> Value {
    let failed = |word: &str, detail: &str| json!({"word": word, "error": null, "detail": detail});
    match outcome {
        Outcome::Agrees { worst } if *worst == 0.0 => {
            json!({"word": "ok", "error": 0.0, "detail": "bit-equal"})
        }
        Outcome::Agrees { worst } => {
            let detail = format!("{worst:.2} of the allowed error");
            json!({"word": "ok", "error": worst, "detail": detail})
        }
        Outcome::Differs { problem } => failed("WRONG", problem),
        Outcome::Missing { problem } => failed("MISSING", problem),
        Outcome::OtherType => failed("MISSING", "not in this element type, although it is listed"),
    }
}
