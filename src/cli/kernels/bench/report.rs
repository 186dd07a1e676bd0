//! Rows of the result as a table and as JSON.

use super::{
    Bench, LaunchCost, Session,
    roofline::{self, Point},
    stats::Comparison,
};
use crate::{
    cli::{
        chips::Chip,
        common::{note, out},
    },
    error::{Error, Result},
    op::Cost,
    tensor::DType,
};
use serde_json::{Value, json};

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
    /// 95 % interval of the median.
    pub cold_range: (f64, f64),
    pub warm_ms: f64,
    pub cost: Cost,
    pub blas_ms: Option<f64>,
    /// Launch cost by both launchers, or why there is none.
    pub launch: Option<Result<LaunchCost>>,
    pub verdict: Option<(Comparison, String)>,
    pub problem: Option<String>,
}

/// The first line of the table.
fn header() -> String {
    format!(
        "{:<52} {:<5} {:<10} {:>10} {:>10} {:>9} {:>8} {:>10} {:>6} {:>10}  variant\n",
        "case", "type", "pass", "cold ms", "warm ms", "TFLOP/s", "GB/s", "floor ms", "%", "cuBLAS"
    )
}

impl Session<'_> {
    /// A row as lines of the table.
    fn line(&self, row: &Row) -> String {
        let number =
            |n: Option<f64>, digits: usize| n.map_or("-".into(), |n| format!("{n:.digits$}"));
        let floor = self.chip.as_ref().map(|c| c.floor_ms(row.cost, row.dtype));
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
        match &row.launch {
            Some(Ok(cost)) => line += &format!("      {}\n", cost.text()),
            Some(Err(e)) => line += &format!("      launch: {e}\n"),
            None => {}
        }
        if let Some(problem) = &row.problem {
            line += &format!("      WRONG: {problem}\n");
        }
        line
    }

    /// A row as one JSON object.
    fn json(&self, row: &Row) -> Value {
        let floor = self.chip.as_ref().map(|c| c.floor_ms(row.cost, row.dtype));
        let compared = row.verdict.as_ref().map(|(c, verdict)| {
            json!({"ratio": c.ratio, "low": c.low, "high": c.high, "verdict": verdict})
        });
        json!({
            "case": row.case, "op": row.op, "dims": row.dims, "dtype": row.dtype.to_string(), "pass": row.pass,
            "variant": row.variant, "device": self.cuda.name(), "chip": self.cuda.chip(),
            "emulated": self.emulated, "cold": row.cold, "cold_ms": row.cold_ms,
            "warm_ms": row.warm_ms, "cold_low_ms": row.cold_range.0, "cold_high_ms": row.cold_range.1,
            "flop": row.cost.flop, "bytes": row.cost.bytes,
            "floor_ms": floor, "cublas_ms": row.blas_ms, "compared": compared,
            "launch": row.launch.as_ref().map(|l| match l {
                Ok(cost) => cost.json(),
                Err(e) => json!({"problem": e.to_string()}),
            }),
            "problem": row.problem,
        })
    }

    /// A row for [`Told`]: as a line of the table and as JSON.
    pub fn tell(&self, row: &Row) -> Value {
        json!({"line": self.line(row), "json": self.json(row)})
    }
}

/// What this process has written: the table or JSON lines, then the plot.
pub struct Told<'a> {
    args: &'a Bench,
    points: Vec<Point>,
    chip: String,
    wrong: usize,
}

impl<'a> Told<'a> {
    pub fn new(args: &'a Bench) -> Self {
        Self { args, points: vec![], chip: String::new(), wrong: 0 }
    }

    pub fn header(&self) {
        if !self.args.json {
            out(&header());
        }
    }

    /// Writes the rows of one case.
    pub fn rows(&mut self, rows: &Value) {
        for row in rows.as_array().into_iter().flatten() {
            let (line, json) = (row["line"].as_str().unwrap_or_default(), &row["json"]);
            out(&if self.args.json { format!("{json}\n") } else { line.to_string() });
            let word = |key: &str| json[key].as_str().unwrap_or_default();
            let number = |key: &str| json[key].as_f64().unwrap_or(f64::NAN);
            let dtype = crate::cli::common::dtype(word("dtype")).unwrap_or_default();
            self.wrong += usize::from(!json["problem"].is_null());
            self.chip = format!("{} ({})", word("device"), word("chip"));
            self.points.push(Point {
                name: format!("{} {} {}", word("case"), word("dtype"), word("pass")),
                dtype,
                cost: Cost { flop: number("flop"), bytes: number("bytes") },
                ms: number("cold_ms"),
            });
        }
    }

    /// Writes that a case has no result.
    pub fn broken(&mut self, case: &str, dtype: DType, kernel: Option<&str>, how: &str) {
        self.wrong += 1;
        let problem = kernel.map_or_else(|| how.to_string(), |k| format!("{k}: {how}"));
        out(&match self.args.json {
            true => {
                format!(
                    "{}\n",
                    json!({"case": case, "dtype": dtype.to_string(), "problem": problem})
                )
            }
            false => format!("{case:<52} {:<5} BROKEN: {problem}\n", dtype.to_string()),
        });
    }

    /// Writes the plot; the exit code.
    ///
    /// # Errors
    /// A plot that cannot be written.
    pub fn finish(self) -> Result<u8> {
        if let Some(path) = &self.args.svg {
            let chip = match self.chip.starts_with("emulated") {
                true => Chip::h200(),
                false => Chip::of(&self.chip),
            };
            let text = roofline::svg(&self.chip, chip.as_ref(), &self.points);
            std::fs::write(path, text).map_err(Error::file("write", path))?;
        }
        if self.points.is_empty() {
            note("no kernel for these cases and element types on this device");
        }
        Ok(u8::from(self.wrong > 0 || self.points.is_empty()))
    }
}
