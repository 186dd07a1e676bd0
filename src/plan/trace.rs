//! How long every step of a program took, as a trace for Perfetto or chrome://tracing.

use super::{Action, Plan, Program};
use crate::{
    device::{Cuda, Device, Event},
    error::Result,
    op::Cost,
};
use serde_json::{Value as Json, json};
use std::{sync::Arc, time::Instant};

/// Attainable rates of one chip; what the gap of a step is measured against.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Roofline {
    /// Multiply-adds of the compute type, TFLOP/s.
    pub tflops: f64,
    /// Memory, GB/s.
    pub gbps: f64,
}

impl Roofline {
    /// The shortest time of `cost`, microseconds.
    pub fn floor_us(&self, cost: &Cost) -> f64 {
        (cost.flop / self.tflops / 1e6).max(cost.bytes / self.gbps / 1e3)
    }
}

/// One step of a traced run.
#[derive(Clone, Debug)]
pub struct Traced {
    /// Scope with its dots.
    pub scope: String,
    /// `attention`, `attention backward`.
    pub what: String,
    /// Start, microseconds from the start of the run.
    pub start_us: f64,
    /// Duration, microseconds.
    pub us: f64,
    /// Work.
    pub cost: Cost,
    /// Kernel variant, where there is a choice.
    pub variant: String,
}

/// A clock of the device the steps run on.
enum Clock {
    Host(Instant, Vec<f64>),
    Cuda(Arc<Cuda>, Vec<Event>),
}

impl Clock {
    fn new(device: &Device) -> Self {
        match device {
            Device::Cpu => Clock::Host(Instant::now(), vec![]),
            Device::Cuda(cuda) => Clock::Cuda(cuda.clone(), vec![]),
        }
    }

    fn tick(&mut self) -> Result<()> {
        match self {
            Clock::Host(begin, ticks) => ticks.push(begin.elapsed().as_secs_f64() * 1e6),
            Clock::Cuda(cuda, ticks) => ticks.push(cuda.event()?),
        }
        Ok(())
    }

    /// Microseconds of every tick from the first.
    fn ticks(self) -> Result<Vec<f64>> {
        match self {
            Clock::Host(_, ticks) => {
                let first = ticks.first().copied().unwrap_or(0.0);
                Ok(ticks.iter().map(|t| t - first).collect())
            }
            Clock::Cuda(_, events) => {
                let Some(first) = events.first() else { return Ok(vec![]) };
                let since = |e: &Event| Ok(f64::from(e.elapsed_ms_since(first)?) * 1e3);
                events.iter().map(since).collect()
            }
        }
    }
}

impl Program {
    /// Runs every step once, one by one, and says how long each took.
    ///
    /// # Errors
    /// Those of the operations and of the driver.
    pub fn trace(&mut self) -> Result<Vec<Traced>> {
        let steps = self.plan().steps.len();
        let mut clock = Clock::new(self.device());
        clock.tick()?;
        for t in 0..steps {
            self.step(t, true)?;
            clock.tick()?;
        }
        let ticks = clock.ticks()?;
        Ok((0..steps).map(|t| self.traced(t, ticks[t], ticks[t + 1])).collect())
    }

    fn traced(&self, t: usize, start_us: f64, end_us: f64) -> Traced {
        let plan = self.plan();
        let (scope, what) = plan.label(t);
        let variant = plan.variant(&plan.steps[t], self.device());
        let (cost, us) = (plan.cost(&plan.steps[t]), end_us - start_us);
        Traced { scope, what, start_us, us, cost, variant }
    }
}

impl Plan {
    /// Scope of step `t`, and what it does: `attention`, `attention backward`.
    pub(super) fn label(&self, t: usize) -> (String, String) {
        let step = &self.steps[t];
        let of = |pass: &str| match self.nodes.get(step.node) {
            Some(n) => (n.scope.clone(), format!("{}{pass}", n.op.name())),
            None => (String::new(), pass.trim().into()),
        };
        match &step.action {
            Action::Forward => of(""),
            Action::Again => of(" again"),
            Action::Backward { .. } => of(" backward"),
            Action::Seed { .. } => (String::new(), "seed".into()),
            Action::Shadow => (String::new(), "shadow of the trainables".into()),
            Action::Collect => (String::new(), "collect gradients".into()),
        }
    }
}

/// The trace as JSON: scopes nest, every step carries its FLOP, bytes, rates and its gap to the floor of `roofline`.
pub fn trace_json(steps: &[Traced], roofline: Option<Roofline>) -> String {
    let mut events: Vec<Json> = vec![];
    let mut open: Vec<String> = vec![];
    let edge = |name: &str, phase: &str, us: f64| json!({"name": name, "ph": phase, "ts": us, "pid": 1, "tid": 1});
    for step in steps {
        let path: Vec<&str> = step.scope.split('.').filter(|s| !s.is_empty()).collect();
        let same = open.iter().zip(&path).take_while(|(a, b)| a == *b).count();
        while open.len() > same {
            let name = open.pop().unwrap_or_default();
            events.push(edge(&name, "E", step.start_us));
        }
        for name in &path[same..] {
            events.push(edge(name, "B", step.start_us));
            open.push((*name).to_string());
        }
        let floor = roofline.map(|r| r.floor_us(&step.cost));
        events.push(json!({
            "name": step.what, "ph": "X", "ts": step.start_us, "dur": step.us, "pid": 1, "tid": 1,
            "args": {
                "flop": step.cost.flop, "bytes": step.cost.bytes, "variant": step.variant,
                "tflops": step.cost.flop / step.us.max(1e-9) / 1e6,
                "gbps": step.cost.bytes / step.us.max(1e-9) / 1e3,
                "floor_us": floor, "gap_us": floor.map(|f| step.us - f),
            },
        }));
    }
    let end = steps.last().map_or(0.0, |s| s.start_us + s.us);
    while let Some(name) = open.pop() {
        events.push(edge(&name, "E", end));
    }
    json!({"traceEvents": events, "displayTimeUnit": "ns"}).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(scope: &str, start_us: f64) -> Traced {
        let cost = Cost { flop: 2e6, bytes: 3e3 };
        let (what, variant) = ("linear".into(), String::new());
        Traced { scope: scope.into(), what, start_us, us: 10.0, cost, variant }
    }

    #[test]
    fn scopes_open_and_close_in_order_and_every_step_has_its_gap() {
        let steps = [step("a.b", 0.0), step("a.c", 10.0), step("", 20.0)];
        let text = trace_json(&steps, Some(Roofline { tflops: 1.0, gbps: 1.0 }));
        let all: Json = serde_json::from_str(&text).unwrap();
        let events = all["traceEvents"].as_array().unwrap();
        let line: String = events.iter().map(|e| e["ph"].as_str().unwrap()).collect();
        assert_eq!(line, "BBXEBXEEX");
        assert_eq!(events[2]["args"]["floor_us"], 3.0);
        assert_eq!(events[2]["args"]["gap_us"], 7.0);
        assert_eq!(events[2]["args"]["tflops"], 0.2);
    }
}
