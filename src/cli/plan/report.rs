//! How a forecast is written: a table of the steps, sums in words or as JSON.

use super::forecast::{BOUNDS, Forecast, Line, Total};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// Operations that the words name; JSON has all of them.
const NAMED: usize = 12;

/// One line a step.
pub(super) fn table(forecast: &Forecast) -> String {
    let mut text = format!("forecast for {}, not measured\n", forecast.chip);
    text += " step  operation  scope  shape  variant  launches  GFLOP  MB  us  bound by\n";
    for (t, line) in forecast.steps.iter().chain(&forecast.after).enumerate() {
        let Line { what, scope, variant, nodes, cost, time, .. } = line;
        let dims: Vec<String> = line.dims.iter().map(|d| format!("{d:?}")).collect();
        let _ = writeln!(
            text,
            "{t:>5}  {what:<22} {scope:<44} {}  {variant}  {nodes}  {:.3}  {:.2}  {:.2}  {}",
            dims.join(" "),
            cost.flop / 1e9,
            cost.bytes / 1e6,
            time.us(),
            time.bound(),
        );
    }
    text
}

/// `12.345 ms`, from ten seconds on `12.3 s`.
pub(super) fn duration(ms: f64) -> String {
    if ms < 1e4 { format!("{ms:.3} ms") } else { format!("{:.1} s", ms / 1e3) }
}

/// Sums in words.
pub(super) fn text(chip: &str, total: &Total) -> String {
    let (all, ms) = (total.time.us().max(1e-9), |us: f64| us / 1e3);
    let mut text = format!("  forecast for {chip}, not measured\n");
    text += &format!("  nodes                  {}\n", total.nodes);
    text += &format!("  floor                  {:.3} ms\n", ms(total.floor_us));
    text += &format!("  forecast               {:.3} ms\n", ms(all));
    if total.measured > 0 {
        text += &format!("  of it measured         {} of {} steps\n", total.measured, total.steps);
    }
    for (name, us) in BOUNDS.iter().zip(total.time.0).filter(|(_, us)| *us > 0.0) {
        let share = 100.0 * us / all;
        text += &format!("    bound by {name:<12} {:>10.3} ms  {share:>5.1} %\n", ms(us));
    }
    for (name, nodes, us) in total.longest().into_iter().take(NAMED) {
        let share = 100.0 * us / all;
        text += &format!("    {name:<26} {:>10.3} ms  {share:>5.1} %  {nodes} nodes\n", ms(us));
    }
    text
}

/// The same as keys of `all`.
pub(super) fn json(all: &mut Value, chip: &str, total: &Total) {
    let us = total.time.us();
    let operation = |(name, nodes, us): (&str, usize, f64)| json!({"operation": name, "nodes": nodes, "ms": us / 1e3});
    let bounds =
        BOUNDS.iter().zip(total.time.0).map(|(name, us)| ((*name).into(), json!(us / 1e3)));
    all["chip"] = json!(chip);
    all["nodes"] = json!(total.nodes);
    all["floor_ms"] = json!(total.floor_us / 1e3);
    all["forecast_ms"] = json!(us / 1e3);
    all["measured_steps"] = json!(total.measured);
    all["by_operation"] = total.longest().into_iter().map(operation).collect();
    all["by_bound"] = Value::Object(bounds.collect());
}
