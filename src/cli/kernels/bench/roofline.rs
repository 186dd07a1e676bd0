//! What a chip can do at best, and the plot of what was reached.

use crate::{
    cli::{chips::Chip, plot::escape},
    op::Cost,
    tensor::DType,
};
use std::fmt::Write as _;

/// One measured kernel.
#[derive(Clone, Debug)]
pub struct Point {
    /// For the tooltip.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Work.
    pub cost: Cost,
    /// Time of a call.
    pub ms: f64,
}

const SIZE: (f64, f64) = (720.0, 440.0);
const LEFT: f64 = 64.0;
const BOTTOM: f64 = 44.0;
const TOP: f64 = 16.0;
const RIGHT: f64 = 16.0;

/// Logarithmic axes: decades and pixels.
struct Axes {
    x: (f64, f64),
    y: (f64, f64),
}

impl Axes {
    fn x(&self, value: f64) -> f64 {
        LEFT + (value.log10() - self.x.0) / (self.x.1 - self.x.0) * (SIZE.0 - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        let share = (value.log10() - self.y.0) / (self.y.1 - self.y.0);
        SIZE.1 - BOTTOM - share * (SIZE.1 - BOTTOM - TOP)
    }
}

fn decades(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let logs: Vec<f64> = values.filter(|v| *v > 0.0).map(f64::log10).collect();
    let low = logs.iter().copied().fold(f64::INFINITY, f64::min).floor();
    let high = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max).ceil();
    match low.is_finite() {
        true if high > low => (low, high),
        true => (low - 1.0, low + 1.0),
        false => (0.0, 1.0),
    }
}

/// FLOP/s over FLOP/byte, both logarithmic, with the chip's two roofs.
pub fn svg(title: &str, chip: Option<&Chip>, points: &[Point]) -> String {
    let points: Vec<&Point> =
        points.iter().filter(|p| p.cost.flop > 0.0 && p.cost.bytes > 0.0 && p.ms > 0.0).collect();
    let intensity = |p: &Point| p.cost.flop / p.cost.bytes;
    let rate = |p: &Point| p.cost.flop / p.ms * 1e3;
    let ridge = chip.map(|c| c.flop(DType::Bf16) / c.bytes());
    let peak = chip.map(|c| c.flop(DType::Bf16));
    let axes = Axes {
        x: decades(points.iter().map(|p| intensity(p)).chain(ridge.map(|r| r * 2.0))),
        y: decades(points.iter().map(|p| rate(p)).chain(peak)),
    };
    let mut s = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" \
         font-family=\"sans-serif\" font-size=\"11\" role=\"img\"><title>{}</title>",
        SIZE.0,
        SIZE.1,
        escape(title)
    );
    grid(&mut s, &axes);
    for (c, name, dtype) in
        chip.iter().flat_map(|c| [(c, "f32", DType::F32), (c, "16 bit", DType::Bf16)])
    {
        roof(&mut s, &axes, name, c.flop(dtype), c.bytes());
    }
    for p in points {
        let colour = match p.dtype {
            DType::F32 | DType::I32 => "#1f6f8b",
            DType::Bf16 => "#d1495b",
            DType::F16 => "#8a5a00",
        };
        let _ = write!(
            s,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"{colour}\" fill-opacity=\"0.8\">\
             <title>{}: {:.3} TFLOP/s, {:.4} ms</title></circle>",
            axes.x(intensity(p)),
            axes.y(rate(p)),
            escape(&p.name),
            rate(p) * 1e-12,
            p.ms
        );
    }
    s + "</svg>"
}

fn grid(s: &mut String, axes: &Axes) {
    let (right, bottom) = (SIZE.0 - RIGHT, SIZE.1 - BOTTOM);
    for e in axes.x.0 as i32..=axes.x.1 as i32 {
        let at = axes.x(10f64.powi(e));
        let _ = write!(
            s,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{bottom}\" stroke=\"#eee\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">1e{e}</text>",
            bottom + 15.0
        );
    }
    for e in axes.y.0 as i32..=axes.y.1 as i32 {
        let at = axes.y(10f64.powi(e));
        let _ = write!(
            s,
            "<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#eee\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">1e{e}</text>",
            LEFT - 6.0,
            at + 4.0
        );
    }
    let _ = write!(
        s,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">FLOP/byte</text>\
         <text x=\"14\" y=\"{2:.1}\" text-anchor=\"middle\" transform=\"rotate(-90 14 {2:.1})\">FLOP/s</text>",
        (LEFT + right) / 2.0,
        SIZE.1 - 8.0,
        bottom / 2.0
    );
}

fn roof(s: &mut String, axes: &Axes, name: &str, flop: f64, bytes: f64) {
    let (low, high) = (10f64.powf(axes.x.0), 10f64.powf(axes.x.1));
    let ridge = (flop / bytes).clamp(low, high);
    let floor = 10f64.powf(axes.y.0);
    let start = low.max(floor / bytes);
    let _ = write!(
        s,
        "<polyline fill=\"none\" stroke=\"#444\" points=\"{:.1},{:.1} {:.1},{:.1} {:.1},{:.1}\"/>\
         <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{name}: {:.0} TFLOP/s, {:.2} TB/s</text>",
        axes.x(start),
        axes.y((start * bytes).min(flop)),
        axes.x(ridge),
        axes.y(flop.min(ridge * bytes)),
        axes.x(high),
        axes.y(flop.min(high * bytes)),
        axes.x(high) - 4.0,
        axes.y(flop.min(high * bytes)) - 4.0,
        flop * 1e-12,
        bytes * 1e-12
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_of_nothing_and_of_something_is_complete() {
        let cost = Cost { flop: 1e9, bytes: 1e6 };
        let point = Point { name: "a < b".into(), dtype: DType::Bf16, cost, ms: 0.1 };
        for (chip, points) in [(None, vec![]), (Chip::h200(), vec![point])] {
            let svg = svg("t", chip.as_ref(), &points);
            assert!(svg.starts_with("<svg") && svg.ends_with("</svg>") && !svg.contains("NaN"));
            assert_eq!(svg.contains("a &lt; b"), !points.is_empty());
        }
    }
}
