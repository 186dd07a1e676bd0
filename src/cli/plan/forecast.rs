//! How long a plan would take on a chip: a roofline for every launch. Nothing of it is measured.

use super::measured::Measured;
use crate::{
    cli::{chips::Chip, common::Kernels},
    device::{Cuda, Device, Effort, Engine, Launched},
    error::Result,
    op::Cost,
    plan::{NoWeights, Plan, Program, Rehearsed},
    tensor::DType,
};
use std::{collections::BTreeMap, sync::Arc};

/// What the time of a launch is spent on.
pub(super) const BOUNDS: [&str; 7] =
    ["matrix", "ordinary", "memory", "l2", "waves", "start", "measured"];
const MATRIX: usize = 0;
const ORDINARY: usize = 1;
const MEMORY: usize = 2;
const L2: usize = 3;
const WAVES: usize = 4;
const START: usize = 5;
const MEASURED: usize = 6;

/// Microseconds by [`BOUNDS`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Time(pub [f64; 7]);

impl Time {
    pub fn us(&self) -> f64 {
        self.0.iter().sum()
    }

    fn add(&mut self, other: &Time, times: f64) {
        self.0.iter_mut().zip(other.0).for_each(|(a, b)| *a += b * times);
    }

    /// What most of it is spent on.
    pub fn bound(&self) -> &'static str {
        let most = (0..7).max_by(|a, b| self.0[*a].total_cmp(&self.0[*b]));
        most.map_or("", |i| BOUNDS[i])
    }
}

/// One step with its forecast.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// `attention`, `attention backward`, `adamw`.
    pub what: String,
    pub scope: String,
    pub dims: Vec<Vec<usize>>,
    pub variant: String,
    pub nodes: usize,
    /// Work as the operation counts it, and the bytes that its launches move.
    pub cost: Cost,
    /// Arithmetic and bytes at once.
    pub floor_us: f64,
    pub time: Time,
}

/// The forecast of a plan: its steps, then what is launched after them in the same graph.
#[derive(Clone, Debug)]
pub(super) struct Forecast {
    pub chip: String,
    pub steps: Vec<Line>,
    /// So many of the steps, the first, run only when a prompt is new.
    pub once: usize,
    pub after: Vec<Line>,
}

/// What launches after the steps of a program, and what it is called.
pub(super) type After<'a> = (&'static str, &'a dyn Fn(&mut Program) -> Result<Vec<Launched>>);

/// A chip to forecast for, what was measured on it, and what was asked for.
#[derive(Clone, Debug)]
pub(super) struct Forecaster {
    pub chip: Chip,
    pub measured: Measured,
    pub kernels: Kernels,
}

impl Forecaster {
    /// The forecast of `plan`, which comes back as a program of a device that runs nothing.
    ///
    /// # Errors
    /// Those of the chip's kernels: one that this build has not.
    pub fn of(&self, plan: Plan, after: Option<After<'_>>) -> Result<(Program, Forecast)> {
        let cuda = Cuda::stand_in(&self.chip.stand_in())?;
        self.kernels.apply(&cuda)?;
        let device = Device::Cuda(cuda);
        let mut program = plan.load(device, &NoWeights)?;
        let steps = program.rehearse()?.iter().map(|step| self.line(step)).collect();
        let after = match after {
            Some((what, launch)) => vec![self.beside(what, &launch(&mut program)?)],
            None => vec![],
        };
        let once = program.plan().summary().once_steps;
        let forecast = Forecast { chip: self.chip.name().into(), steps, once, after };
        Ok((program, forecast))
    }

    fn line(&self, step: &Rehearsed) -> Line {
        let (time, bytes) = step_time(&self.chip, &step.launches, Some(&step.cost));
        let measured = self.measured.us(step).map(|us| {
            let mut time = Time::default();
            time.0[MEASURED] = us;
            time
        });
        Line {
            what: step.what.clone(),
            scope: step.scope.clone(),
            dims: step.dims.clone(),
            variant: step.variant.clone(),
            nodes: step.launches.len(),
            cost: Cost { flop: step.cost.flop, bytes },
            floor_us: self.chip.sustained_floor_us(step.cost, step.dtype),
            time: measured.unwrap_or(time),
        }
    }

    /// Launches that belong to no step.
    fn beside(&self, what: &str, launches: &[Launched]) -> Line {
        let (time, bytes) = step_time(&self.chip, launches, None);
        let cost = Cost { flop: 0.0, bytes };
        Line {
            what: what.into(),
            scope: String::new(),
            dims: vec![],
            variant: String::new(),
            nodes: launches.len(),
            cost,
            floor_us: self.chip.sustained_floor_us(cost, DType::F32),
            time,
        }
    }
}

/// The device of a program that was made by [`Forecaster::of`].
pub(super) fn stand_in(program: &Program) -> Option<Arc<Cuda>> {
    match program.device() {
        Device::Cuda(cuda) => Some(cuda.clone()),
        Device::Cpu => None,
    }
}

/// The time of launches one after another, and the bytes of memory they move. `cost` is what the operation counts:
/// its arithmetic where no launch states any, and a limit on the bytes of a single launch that does not state them.
fn step_time(chip: &Chip, launches: &[Launched], cost: Option<&Cost>) -> (Time, f64) {
    let stated = launches.iter().any(|l| l.effort.flop > 0.0);
    let all: f64 = launches.iter().map(|l| l.effort.bytes).sum();
    let (mut seen, mut sum, mut moved) = (BTreeMap::<u64, usize>::new(), Time::default(), 0.0);
    for launched in launches {
        let mut effort = launched.effort;
        if let (Some(cost), false) = (cost, launched.told) {
            if !stated {
                effort.flop = cost.flop * effort.bytes / all.max(1.0);
            }
            if launches.len() == 1 && cost.bytes > 0.0 {
                effort.bytes = effort.bytes.min(cost.bytes);
                effort.reads = effort.bytes;
            }
        }
        // what an earlier launch of the step left in the second-level cache
        let kept = |(at, bytes): (&u64, &usize)| {
            let fits = 2.0 * *bytes as f64 <= chip.l2_bytes();
            if fits { (*seen.get(at).unwrap_or(&0)).min(*bytes) as f64 } else { 0.0 }
        };
        let kept: f64 = launched.touched.iter().map(kept).sum();
        let parts = if 2.0 * effort.parts <= chip.l2_bytes() { 0.0 } else { effort.parts };
        let bytes = (effort.bytes - kept).max(0.0) + parts;
        for (at, bytes) in &launched.touched {
            let most = seen.entry(*at).or_default();
            *most = (*most).max(*bytes);
        }
        moved += bytes;
        sum.add(&launch_time(chip, &effort, bytes), 1.0);
    }
    (sum, moved)
}

/// The time of one launch that moves `bytes` of memory.
fn launch_time(chip: &Chip, effort: &Effort, bytes: f64) -> Time {
    let (rates, all) = (chip.sustained(), chip.multiprocessors());
    let tiles = (effort.tiles as f64).max(1.0);
    let arithmetic = effort.flop / chip.sustained_flop(effort.engine);
    let memory = bytes / rates.memory;
    let l2 = (effort.reads.max(effort.bytes) + effort.parts) / rates.l2;
    let ideal = arithmetic.max(memory).max(l2);
    let bound = match ideal {
        x if x == arithmetic && effort.engine == Engine::Ordinary => ORDINARY,
        x if x == arithmetic => MATRIX,
        x if x == memory => MEMORY,
        _ => L2,
    };
    // the last wave takes as long as a full one; few blocks have their share of the cache's rate only
    let whole = (tiles / all).ceil() * all / tiles;
    let few = all / tiles.min(all);
    let real = (arithmetic * whole).max(memory).max(l2 * few);
    let mut time = Time::default();
    time.0[bound] = ideal * 1e6;
    time.0[WAVES] = (real - ideal) * 1e6;
    time.0[START] = chip.start_us();
    if let Some(lead) = effort.lead {
        // its tiles wait for it, so its time is added
        let tiles = (lead.tiles as f64).max(1.0);
        let arithmetic = lead.flop / chip.sustained_flop(effort.engine);
        let whole = (tiles / all).ceil() * all / tiles;
        let (matrix, l2) = (arithmetic * whole, lead.reads / rates.l2 * all / tiles.min(all));
        time.0[if matrix > l2 { MATRIX } else { L2 }] += matrix.max(l2) * 1e6;
    }
    time
}

/// Sums over steps.
#[derive(Clone, Debug, Default)]
pub(super) struct Total {
    pub nodes: usize,
    pub floor_us: f64,
    pub time: Time,
    /// Steps whose time was measured.
    pub measured: usize,
    pub steps: usize,
    /// Nodes and microseconds of each operation.
    pub operations: BTreeMap<String, (usize, f64)>,
}

impl Total {
    /// Adds `lines`, run so many times.
    pub fn add(&mut self, lines: &[Line], times: usize) {
        for line in lines {
            self.nodes += line.nodes * times;
            self.floor_us += line.floor_us * times as f64;
            self.time.add(&line.time, times as f64);
            self.steps += times;
            self.measured += if line.time.0[MEASURED] > 0.0 { times } else { 0 };
            let one = self.operations.entry(line.what.clone()).or_default();
            one.0 += line.nodes * times;
            one.1 += line.time.us() * times as f64;
        }
    }

    /// Operations, the longest first.
    pub fn longest(&self) -> Vec<(&str, usize, f64)> {
        let mut all: Vec<_> =
            self.operations.iter().map(|(name, (nodes, us))| (&name[..], *nodes, *us)).collect();
        all.sort_by(|a, b| b.2.total_cmp(&a.2));
        all
    }
}

impl Forecast {
    /// One run of everything in the graph.
    pub fn total(&self) -> Total {
        let mut total = Total::default();
        self.add_to(&mut total, 1);
        total
    }

    /// Adds `times` runs with the same prompt.
    pub fn add_to(&self, total: &mut Total, times: usize) {
        let (once, each) = self.steps.split_at(self.once.min(self.steps.len()));
        total.add(once, 1);
        total.add(each, times);
        total.add(&self.after, times);
    }

    /// What runs only when a prompt is new.
    pub fn prompt(&self) -> Total {
        let mut total = Total::default();
        total.add(&self.steps[..self.once.min(self.steps.len())], 1);
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        device::{Lead, cubin_table::Target},
        kernels::{coverage, linear::Linear},
        plan::{Recorder, WeightLayout},
        tensor::Spec,
    };

    /// 791.6 TFLOP/s, 4.32 TB/s, 7.96 TB/s through the cache, 132 multiprocessors, 2 us.
    fn h200() -> Chip {
        Chip::h200().unwrap()
    }

    fn time(effort: Effort, bytes: f64) -> [f64; 4] {
        let t = launch_time(&h200(), &effort, bytes);
        assert_eq!(t.0[START], 2.0);
        [t.0[MATRIX] + t.0[ORDINARY], t.0[MEMORY], t.0[L2], t.0[WAVES]]
    }

    fn is(found: [f64; 4], want: [f64; 4]) {
        let near = found.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-9);
        assert!(near, "{found:?} {want:?}");
    }

    #[test]
    fn a_launch_is_bound_by_the_slowest_and_whole_waves_cost_more() {
        let none = Effort::pass(132, 0.0, 0.0);
        let matrix = Effort { engine: Engine::Wgmma, flop: 791.6e6, ..none };
        is(time(matrix, 0.0), [1.0, 0.0, 0.0, 0.0]);
        is(time(Effort { engine: Engine::Mma, ..matrix }, 0.0), [2.0, 0.0, 0.0, 0.0]);
        let ordinary = Effort { flop: 53.6e6, ..none };
        is(time(ordinary, 0.0), [1.0, 0.0, 0.0, 0.0]);
        // one tile more than multiprocessors: two waves
        is(time(Effort { tiles: 133, ..matrix }, 0.0), [1.0, 0.0, 0.0, 264.0 / 133.0 - 1.0]);
        is(time(Effort { tiles: 66, ..matrix }, 0.0), [1.0, 0.0, 0.0, 1.0]);
        is(time(matrix, 8.64e6), [0.0, 2.0, 0.0, 0.0]);
        let cache = 5120.0 * 1830.0 * 0.85;
        is(time(Effort { reads: 3.0 * cache, ..matrix }, 4.32e6), [0.0, 0.0, 3.0, 0.0]);
        // results count though no tile reads them, partial sums beside what the tiles read
        is(time(Effort { bytes: cache, ..none }, 0.0), [0.0, 0.0, 1.0, 0.0]);
        is(time(Effort::pass(132, cache, 2.0 * cache), 0.0), [0.0, 0.0, 3.0, 0.0]);
        // what tiles wait for is added, by half of the multiprocessors: its products, or its reads
        let lead = Lead { flop: 791.6e6, tiles: 66, reads: 0.0, bytes: 0.0 };
        is(time(matrix.leading(lead), 0.0), [3.0, 0.0, 0.0, 0.0]);
        is(
            time(matrix.leading(Lead { flop: 0.0, reads: cache, ..lead }), 0.0),
            [1.0, 0.0, 2.0, 0.0],
        );
        // a third of the multiprocessors reads at a third of the cache's rate
        let third = Effort { tiles: 44, reads: cache, ..none };
        is(time(third, 0.0), [0.0, 0.0, 1.0, 2.0]);
    }

    #[test]
    fn what_a_launch_of_the_step_left_in_the_cache_is_not_read_from_memory() {
        let launch = |at: u64, bytes: usize| Launched {
            kernel: "k",
            effort: Effort::pass(1000, bytes as f64, 0.0),
            told: true,
            touched: [(at, bytes)].into(),
        };
        let moved = |all: &[Launched]| step_time(&h200(), all, None).1;
        let (small, large) = (1 << 20, 64 << 20); // the cache has 50 MB
        assert_eq!(moved(&[launch(1, small), launch(1, small)]), small as f64);
        assert_eq!(moved(&[launch(1, small), launch(2, small)]), 2.0 * small as f64);
        assert_eq!(moved(&[launch(1, large), launch(1, large)]), 2.0 * large as f64);
        // partial sums stay there unless they are too many
        let sum = |parts: usize| Launched {
            effort: Effort::pass(1000, small as f64, parts as f64),
            ..launch(1, small)
        };
        assert_eq!(moved(&[sum(small)]), small as f64);
        assert_eq!(moved(&[sum(large)]), (small + large) as f64);
    }

    #[test]
    fn a_launch_that_says_nothing_takes_what_its_operation_counts() {
        let one = |bytes: f64| Launched {
            kernel: "k",
            effort: Effort::pass(132, bytes, 0.0),
            told: false,
            touched: BTreeMap::new(),
        };
        let cost = Cost { flop: 53.6e6, bytes: 1e6 };
        let of = |all: &[Launched]| step_time(&h200(), all, Some(&cost));
        let (time, bytes) = of(&[one(9e6)]);
        assert!((time.0[ORDINARY] - 1.0).abs() < 1e-9 && bytes == 1e6, "{time:?} {bytes}");
        assert_eq!(of(&[one(9e6), one(3e6)]).1, 12e6);
    }

    #[test]
    fn one_linear_layer_takes_what_the_formula_says() {
        if coverage::compiled(Target::Sm90a).unwrap().is_empty() {
            return;
        }
        let [m, n, k] = [4096, 1280, 1280];
        let mut rec = Recorder::in_dtype(DType::Bf16);
        let x = rec.input("x", Spec::f32(&[m, k]));
        let x = rec.cast(x, DType::Bf16).unwrap();
        let w = rec.param("w", &[n, k], WeightLayout::Dense);
        let y = rec.apply(Linear { bias: false }, &[x, w]).unwrap();
        let plan = rec.plan_inference(y).unwrap();
        let (measured, kernels) = (Measured::default(), Kernels::default());
        let forecaster = Forecaster { chip: h200(), measured, kernels };
        let (_, forecast) = forecaster.of(plan, None).unwrap();
        let line = forecast.steps.iter().find(|l| l.what == "linear").unwrap();
        let tile = line.variant.trim_start_matches("sm90_").trim_end_matches("_ping");
        let (rows, cols) = tile.split_once('x').unwrap();
        let (rows, cols): (usize, usize) = (rows.parse().unwrap(), cols.parse().unwrap());
        let tiles = (m.div_ceil(2 * rows) * 2 * n.div_ceil(cols)) as f64;
        let flop = 2.0 * tiles * (rows * cols * k) as f64;
        let matrix = flop / 791.6e6;
        let cache = tiles * ((rows + cols / 2) * k * 2) as f64 / (5120.0 * 1830.0 * 0.85);
        let memory = ((m * k + n * k + m * n) * 2) as f64 / 4.32e6;
        let whole = matrix * (tiles / 132.0).ceil() * 132.0 / tiles;
        let few = cache * 132.0 / tiles.min(132.0);
        let want = whole.max(few).max(memory) + 2.0;
        assert!((line.time.us() - want).abs() < 1e-6, "{} {want} {}", line.time.us(), line.variant);
        assert_eq!(line.nodes, 1);
        let floor = 2.0 * (m * n * k) as f64 / 791.6e6;
        assert!((line.floor_us - floor).abs() < 1e-6);
    }
}
