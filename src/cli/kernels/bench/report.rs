//! Rows of the result as a table and as JSON.

use super::{Session, stats::Comparison};
use crate::{op::Cost, tensor::DType};

/// One line of the result.
pub struct Row {
    pub case: String,
    pub op: &'static str,
    pub dims: Vec<Vec<usize>>,
    pub dtype: DType,
    pub pass: String,
    pub variant: String,
    pub cold: bool,
    pub cold_ms: f64,
    pub warm_ms: f64,
    pub cost: Cost,
    pub blas_ms: Option<f64>,
    pub verdict: Option<(Comparison, String)>,
    pub problem: Option<String>,
}

/// The first line of the table.
pub fn header() -> String {
    format!(
        "{:<52} {:<5} {:<10} {:>10} {:>10} {:>9} {:>8} {:>10} {:>6} {:>10}  variant\n",
        "case", "type", "pass", "cold ms", "warm ms", "TFLOP/s", "GB/s", "floor ms", "%", "cuBLAS"
    )
}

impl Session<'_> {
    /// A row as lines of the table.
    pub fn line(&self, row: &Row) -> String {
        let number =
            |n: Option<f64>, digits: usize| n.map_or("-".into(), |n| format!("{n:.digits$}"));
        let floor = self.chip.map(|c| c.floor_ms(row.cost, row.dtype));
        let share = floor.filter(|_| !self.emulated).map(|f| f / row.cold_ms * 100.0);
        let mut line = format!(
            "{:<52} {:<5} {:<10} {:>10.4} {:>10.4} {:>9.3} {:>8.1} {:>10} {:>6} {:>10}  {}{}\n",
            row.case,
            row.dtype.to_string(),
            row.pass,
            row.cold_ms,
            row.warm_ms,
            row.cost.flop / row.cold_ms * 1e-9,
            row.cost.bytes / row.cold_ms * 1e-6,
            number(floor, 4),
            number(share, 0),
            number(row.blas_ms, 4),
            row.variant,
            if row.cold || self.emulated { "" } else { " (too small: partly in the cache)" },
        );
        if let Some((_, verdict)) = &row.verdict {
            line += &format!("      {verdict}\n");
        }
        if let Some(problem) = &row.problem {
            line += &format!("      WRONG: {problem}\n");
        }
        line
    }

    /// A row as one JSON object.
    pub fn json(&self, row: &Row) -> String {
        let floor = self.chip.map(|c| c.floor_ms(row.cost, row.dtype));
        let compared = row.verdict.as_ref().map(|(c, verdict)| {
            serde_json::json!({"ratio": c.ratio, "low": c.low, "high": c.high, "verdict": verdict})
        });
        let line = serde_json::json!({
            "case": row.case, "op": row.op, "dims": row.dims, "dtype": row.dtype.to_string(), "pass": row.pass,
            "variant": row.variant, "device": self.cuda.name(), "chip": self.cuda.chip(),
            "emulated": self.emulated, "cold": row.cold, "cold_ms": row.cold_ms,
            "warm_ms": row.warm_ms, "flop": row.cost.flop, "bytes": row.cost.bytes,
            "floor_ms": floor, "cublas_ms": row.blas_ms, "compared": compared,
            "problem": row.problem,
        });
        format!("{line}\n")
    }
}
