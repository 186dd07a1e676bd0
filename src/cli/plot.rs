//! Line plots as SVG text.

use std::fmt::Write as _;

/// One curve.
#[derive(Clone, Debug)]
pub struct Curve {
    /// Shown in the legend.
    pub name: String,
    /// `(x, y)` in data units; points that are not finite are left out.
    pub points: Vec<(f64, f64)>,
}

const COLOURS: [&str; 6] = ["#1f6f8b", "#d1495b", "#3d8b37", "#8a5a00", "#6b4fa0", "#444444"];
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 280.0;
const MARGIN: (f64, f64, f64, f64) = (52.0, 14.0, 14.0, 38.0); // left, right, top, bottom

/// Each point replaced by the mean of the `window` points up to it: a readable loss curve.
pub fn smoothed(points: &[(f64, f64)], window: usize) -> Vec<(f64, f64)> {
    let w = window.max(1);
    let mean = |i: usize| {
        let part = &points[i.saturating_sub(w - 1)..=i];
        part.iter().map(|p| p.1).sum::<f64>() / part.len() as f64
    };
    (0..points.len()).map(|i| (points[i].0, mean(i))).collect()
}

/// An SVG line plot with axes, ticks and a legend.
pub fn lines(x_label: &str, y_label: &str, curves: &[Curve]) -> String {
    let finite = |p: &&(f64, f64)| p.0.is_finite() && p.1.is_finite();
    let all: Vec<(f64, f64)> =
        curves.iter().flat_map(|c| c.points.iter().filter(finite)).copied().collect();
    let range = |of: &dyn Fn(&(f64, f64)) -> f64| {
        let low = all.iter().map(of).fold(f64::INFINITY, f64::min);
        let high = all.iter().map(of).fold(f64::NEG_INFINITY, f64::max);
        if !low.is_finite() {
            (0.0, 1.0)
        } else if high > low {
            (low, high)
        } else {
            (low - 0.5, high + 0.5)
        }
    };
    let (x0, x1) = range(&|p| p.0);
    let (y0, y1) = range(&|p| p.1);
    let px = |x: f64| MARGIN.0 + (x - x0) / (x1 - x0) * (WIDTH - MARGIN.0 - MARGIN.1);
    let py = |y: f64| HEIGHT - MARGIN.3 - (y - y0) / (y1 - y0) * (HEIGHT - MARGIN.2 - MARGIN.3);
    let mut s = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"11\" role=\"img\">"
    );
    for y in ticks(y0, y1) {
        let (left, right, at) = (MARGIN.0, WIDTH - MARGIN.1, py(y));
        let _ = write!(
            s,
            "<line x1=\"{left:.1}\" x2=\"{right:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            left - 6.0,
            at + 4.0,
            number(y)
        );
    }
    for x in ticks(x0, x1) {
        let _ = write!(
            s,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            px(x),
            HEIGHT - MARGIN.3 + 15.0,
            number(x)
        );
    }
    for (i, c) in curves.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let points: Vec<String> = c
            .points
            .iter()
            .filter(finite)
            .map(|p| format!("{:.1},{:.1}", px(p.0), py(p.1)))
            .collect();
        let _ = write!(
            s,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" points=\"{}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"{colour}\">{}</text>",
            points.join(" "),
            WIDTH - MARGIN.1 - 6.0,
            MARGIN.2 + 14.0 * (i + 1) as f64,
            escape(&c.name)
        );
    }
    let _ = write!(
        s,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
         <text x=\"14\" y=\"{:.1}\" text-anchor=\"middle\" transform=\"rotate(-90 14 {3:.1})\">{}</text></svg>",
        (WIDTH + MARGIN.0) / 2.0,
        HEIGHT - 6.0,
        escape(x_label),
        (HEIGHT - MARGIN.3) / 2.0,
        escape(y_label)
    );
    s
}

/// About five round values inside `[low, high]`.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let raw = (high - low) / 5.0;
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].iter().map(|m| m * power).find(|s| *s >= raw).unwrap_or(raw);
    let first = (low / step).ceil();
    let count = ((high / step).floor() - first).max(0.0) as usize;
    (0..=count).map(|i| (first + i as f64) * step).collect()
}

fn number(v: f64) -> String {
    let text = format!("{v:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".into() } else { text.into() }
}

/// Text for HTML and SVG.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(0.0, 1.0), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        assert!(ticks(3.2, 417.0).iter().all(|t| (3.2..=417.0).contains(t) && t % 100.0 == 0.0));
    }

    #[test]
    fn a_plot_without_points_and_with_nan_is_still_a_plot() {
        for points in [vec![], vec![(0.0, f64::NAN)], vec![(1.0, 2.0)]] {
            let svg = lines("step", "loss <", &[Curve { name: "a&b".into(), points }]);
            assert!(svg.starts_with("<svg") && svg.ends_with("</svg>") && !svg.contains("NaN"));
            assert!(svg.contains("loss &lt;") && svg.contains("a&amp;b"));
        }
    }
}
