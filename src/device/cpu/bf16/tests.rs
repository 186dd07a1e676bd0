use super::*;
use crate::device::cpu::{Elements, Initial, Left, Rows, Taps, Unpacked, ZEROS};
use half::bf16;

/// Numbers that bf16 holds exactly.
fn values(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 + seed * 104_729) % 61) as f32 / 16.0 - 2.0).collect()
}

fn units() -> Vec<Unit> {
    Isa::available().into_iter().filter_map(Isa::unit).collect()
}

fn halves(data: &[f32]) -> Vec<bf16> {
    data.iter().map(|v| bf16::from_f32(*v)).collect()
}

fn one(
    data: Elements<'_>,
    [len, row_stride]: [usize; 2],
    [n, column_stride]: [usize; 2],
) -> Unpacked<'_> {
    Unpacked {
        data,
        taps: Taps::All(1),
        tap_stride: 0,
        len,
        row_stride,
        n,
        column_stride,
        scale: 1.0,
    }
}

/// The triple loop.
fn product(
    [m, k, n]: [usize; 3],
    a: impl Fn(usize, usize) -> f32,
    b: impl Fn(usize, usize) -> f32,
) -> Vec<f64> {
    let dot = |i: usize, j: usize| (0..k).map(|t| f64::from(a(i, t)) * f64::from(b(t, j))).sum();
    (0..m * n).map(|at| dot(at / n, at % n)).collect()
}

fn assert_near(got: &[f32], want: &[f64], what: &str) {
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(*g) - w).abs() < 1e-4 * (1.0 + w.abs()), "{what} [{i}]: {g} {w}");
    }
}

#[test]
fn sums_are_those_of_the_triple_loop_whatever_the_shape_and_the_storage() {
    for unit in units() {
        for [m, k, n] in
            [[1, 1, 1], [3, 40, 70], [70, 33, 5], [200, 600, 90], [33, 1100, 64], [64, 64, 64]]
        {
            let (x, w, bias, old) =
                (values(m * k, 1), values(n * k, 2), values(n, 3), values(m * n, 4));
            let stored = halves(&w);
            let dot = product([m, k, n], |i, t| x[i * k + t], |t, j| w[j * k + t]);
            let left = Side::Rows(Left { data: &x, len: k, rows: Rows::From(0), taps: 1 });
            let weights = [Elements::F32(&w), Elements::Bf16(&stored)];
            for (right, initial) in weights
                .into_iter()
                .flat_map(|w| [Initial::Zero, Initial::Old, Initial::Bias(&bias)].map(|i| (w, i)))
            {
                let right = one(right, [k, 1], [n, k]);
                let sum = Sum { unit, left, rows: m, right, adapter: None };
                let mut out = old.clone();
                let mut scratch = vec![f32::NAN; sum_scratch([m, n], steps(1, k), 0)];
                sum.run(&mut out, false, &mut [], initial, &mut scratch);
                let start = |at: usize| match initial {
                    Initial::Zero => 0.0,
                    Initial::Old => old[at],
                    Initial::Bias(b) => b[at % n],
                };
                let want: Vec<f64> =
                    dot.iter().enumerate().map(|(at, d)| d + f64::from(start(at))).collect();
                assert_near(&out, &want, &format!("{unit:?} {m} {k} {n} {initial:?}"));
            }
        }
    }
}

#[test]
fn a_weight_may_be_transposed_scaled_and_f32() {
    let (m, k, n) = (50, 90, 70);
    for unit in units() {
        let (x, w) = (values(m * k, 1), values(n * k, 2));
        let left = Side::Rows(Left { data: &x, len: k, rows: Rows::From(0), taps: 1 });
        let right = Unpacked { scale: 0.5, ..one(Elements::F32(&w), [k, n], [n, 1]) };
        let sum = Sum { unit, left, rows: m, right, adapter: None };
        let mut out = vec![f32::NAN; m * n];
        let mut scratch = vec![f32::NAN; sum_scratch([m, n], steps(1, k), 0)];
        sum.run(&mut out, false, &mut [], Initial::Zero, &mut scratch);
        let want = product([m, k, n], |i, t| x[i * k + t], |t, j| 0.5 * w[t * n + j]);
        assert_near(&out, &want, &format!("{unit:?}"));
        let stored = halves(&w);
        let right = one(Elements::Bf16(&stored), [k, n], [n, 1]);
        Sum { right, ..sum }.run(&mut out, false, &mut [], Initial::Zero, &mut scratch);
        let want = product([m, k, n], |i, t| x[i * k + t], |t, j| w[t * n + j]);
        assert_near(&out, &want, &format!("{unit:?} stored"));
    }
}

#[test]
fn an_adapter_is_added_and_its_thin_product_kept() {
    for unit in units() {
        for ([m, k, n], r) in [([70, 80, 40], 7), ([40, 700, 130], 40), ([130, 700, 40], 33)] {
            let (x, w) = (values(m * k, 1), values(n * k, 2));
            // sums that bf16 holds exactly, so that their rounding does not show
            let down: Vec<f32> =
                (0..r * k).map(|i| f32::from(u8::from(i % (k + 3) == 0))).collect();
            let up = values(n * r, 5);
            let left = Side::Rows(Left { data: &x, len: k, rows: Rows::From(0), taps: 1 });
            let adapter = [
                one(Elements::F32(&down), [k, 1], [r, k]),
                one(Elements::F32(&up), [r, 1], [n, r]),
            ];
            let sum = Sum {
                unit,
                left,
                rows: m,
                right: one(Elements::F32(&w), [k, 1], [n, k]),
                adapter: Some(adapter),
            };
            let (mut out, mut thin) = (vec![f32::NAN; m * n], vec![f32::NAN; m * r]);
            let mut scratch = vec![f32::NAN; sum_scratch([m, n], steps(1, k), r)];
            sum.run(&mut out, false, &mut thin, Initial::Zero, &mut scratch);
            let h = product([m, k, r], |i, t| x[i * k + t], |t, j| down[j * k + t]);
            assert_near(&thin, &h, "thin");
            let base = product([m, k, n], |i, t| x[i * k + t], |t, j| w[j * k + t]);
            let more = product([m, r, n], |i, t| h[i * r + t] as f32, |t, j| up[j * r + t]);
            let want: Vec<f64> = base.iter().zip(&more).map(|(a, b)| a + b).collect();
            assert_near(&out, &want, &format!("{unit:?} {m} {k} {n} {r}"));
            let mut alone = vec![f32::NAN; m * r];
            let right = Unpacked { n: 0, ..sum.right };
            Sum { right, ..sum }.run(&mut [], false, &mut alone, Initial::Zero, &mut scratch);
            assert_eq!(alone, thin);
        }
    }
}

#[test]
fn columns_of_two_matrices_are_summed_over_their_rows_also_turned() {
    let (p, m, n) = (300, 20, 90);
    for unit in units() {
        let (a, b) = (values(p * m, 1), values(p * n, 2));
        let left = Side::Columns(one(Elements::F32(&a), [p, m], [m, 1]));
        let right = one(Elements::F32(&b), [p, n], [n, 1]);
        let sum = Sum { unit, left, rows: m, right, adapter: None };
        let mut scratch = vec![f32::NAN; sum_scratch([m, n], steps(1, p), 0)];
        let want = product([m, p, n], |i, t| a[t * m + i], |t, j| b[t * n + j]);
        let mut out = vec![f32::NAN; m * n];
        sum.run(&mut out, false, &mut [], Initial::Zero, &mut scratch);
        assert_near(&out, &want, "straight");
        let mut turned = vec![f32::NAN; m * n];
        sum.run(&mut turned, true, &mut [], Initial::Zero, &mut scratch);
        let back: Vec<f32> = (0..m * n).map(|at| turned[at % n * m + at / n]).collect();
        assert_eq!(back, out);
    }
}

#[test]
fn listed_rows_of_taps_are_read_and_written_where_they_lie() {
    let (c, o, taps, count) = (40, 50, 3, 45);
    for unit in units() {
        let (x, w) = (values(60 * c, 1), halves(&values(o * taps * c, 2)));
        let list: Vec<u32> = (0..taps * count)
            .map(|i| if i % 7 == 0 { ZEROS } else { (i * 13 % 60) as u32 })
            .collect();
        let to: Vec<u32> = (0..count as u32).map(|i| count as u32 - 1 - i).collect();
        let right = Unpacked {
            tap_stride: c,
            taps: Taps::All(taps),
            ..one(Elements::Bf16(&w), [c, 1], [o, taps * c])
        };
        let mut packed = vec![f32::NAN; Shared::len(taps, c, o)];
        let shared = Shared::new(unit, right, &mut packed);
        let left = Left { data: &x, len: c, rows: Rows::At(&list), taps };
        let mut out = vec![f32::NAN; count * o];
        let mut scratch = vec![f32::NAN; BLOCK_SCRATCH];
        shared.rows((&mut out, Rows::At(&to)), left, Initial::Zero, count, &mut scratch);
        let at = |i: usize, t: usize| match list[t / c * count + i] {
            ZEROS => 0.0,
            row => x[row as usize * c + t % c],
        };
        let want = product([count, taps * c, o], at, |t, j| w[j * taps * c + t].to_f32());
        let back: Vec<f32> = (0..count * o).map(|i| out[(count - 1 - i / o) * o + i % o]).collect();
        assert_near(&back, &want, &format!("{unit:?}"));
    }
}

#[test]
fn operands_are_rounded_to_the_nearest_and_a_row_does_not_depend_on_the_others() {
    let (m, k, n) = (90, 650, 70);
    let wide =
        |n: usize, s: usize| -> Vec<f32> { (0..n).map(|i| ((i + s) as f32 * 0.7).sin()).collect() };
    let (x, w) = (wide(m * k, 1), wide(n * k, 2));
    let rounded = |v: &[f32]| halves(v).iter().map(|v| v.to_f32()).collect::<Vec<f32>>();
    let (xr, wr) = (rounded(&x), rounded(&w));
    let want = product([m, k, n], |i, t| xr[i * k + t], |t, j| wr[j * k + t]);
    for unit in units() {
        let run = |m: usize| {
            let left = Side::Rows(Left { data: &x, len: k, rows: Rows::From(0), taps: 1 });
            let right = one(Elements::F32(&w), [k, 1], [n, k]);
            let sum = Sum { unit, left, rows: m, right, adapter: None };
            let mut out = vec![f32::NAN; m * n];
            let mut scratch = vec![f32::NAN; sum_scratch([m, n], steps(1, k), 0)];
            sum.run(&mut out, false, &mut [], Initial::Zero, &mut scratch);
            out
        };
        let all = run(m);
        assert_near(&all, &want, &format!("{unit:?}"));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        assert_eq!(pool.install(|| run(m)), all);
        for few in [1, 17, 40] {
            assert_eq!(run(few), all[..few * n], "{few} rows");
        }
    }
}
