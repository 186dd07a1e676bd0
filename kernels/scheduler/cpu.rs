//! The reference: one step on the host.

use super::{Output, Row, Rule};

/// Moves `latent` over one step with the model's `output`; `previous` is 2M's last estimate of the
/// clean latent and becomes this step's.
pub fn step(
    (rule, predicts): (Rule, Output),
    row: &Row,
    latent: &mut [f32],
    previous: &mut [f32],
    output: &[f32],
) {
    match rule {
        Rule::Euler => euler(predicts, row, latent, output),
        Rule::Ddim => ddim(predicts, row, latent, output),
        Rule::DpmPp => two_step(predicts, row, (latent, previous), output),
    }
}

fn euler(predicts: Output, row: &Row, latent: &mut [f32], output: &[f32]) {
    for (x, o) in latent.iter_mut().zip(output) {
        let slope = match predicts {
            Output::Noise => *o,
            Output::Velocity => (*x - (o * row.c + *x * row.d)) / row.a,
        };
        *x += slope * row.b;
    }
}

/// The clean latent that noise `o` or velocity `o` implies at `x`.
fn estimate(predicts: Output, row: &Row, x: f32, o: f32) -> f32 {
    match predicts {
        Output::Noise => (x - row.b * o) / row.a,
        Output::Velocity => row.a * x - row.b * o,
    }
}

fn ddim(predicts: Output, row: &Row, latent: &mut [f32], output: &[f32]) {
    for (x, o) in latent.iter_mut().zip(output) {
        let mut clean = estimate(predicts, row, *x, *o);
        if row.second != 0.0 {
            clean = clean.min(row.ratio).max(-row.ratio);
        }
        let eps = match predicts {
            Output::Noise => *o,
            Output::Velocity => row.a * o + row.b * *x,
        };
        *x = row.c * clean + row.d * eps;
    }
}

fn two_step(
    predicts: Output,
    row: &Row,
    (latent, previous): (&mut [f32], &mut [f32]),
    output: &[f32],
) {
    for ((x, p), o) in latent.iter_mut().zip(previous).zip(output) {
        let clean = estimate(predicts, row, *x, *o);
        let change = if row.second != 0.0 { row.ratio * (clean - *p) } else { 0.0 };
        *x = row.c * *x + row.d * (clean + change);
        *p = clean;
    }
}

/// `away + guidance (toward - away)`, into `away`.
pub fn guide(guidance: f32, away: &mut [f32], toward: &[f32]) {
    for (a, t) in away.iter_mut().zip(toward) {
        *a += guidance * (*t - *a);
    }
}
