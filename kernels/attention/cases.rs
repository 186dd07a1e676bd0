//! Shapes of test, gradient check and bench.

use super::{Attention, Bias, BiasedAttention};
use crate::{kernels::case::Case, tensor::DType};

/// Batch, queries, heads, channels; keys; causal.
type Shape = ([usize; 4], usize, bool);

/// One key, one query, odd sizes, masks with fewer and more keys than queries, several blocks of
/// both, more blocks than a ring has slots, the text keys of cross attention, and every head dimension of the models.
pub fn cases() -> Vec<Case> {
    let shapes: [Shape; 35] = [
        ([8, 1, 2, 3], 1, false),
        ([4, 5, 3, 4], 7, false),
        ([4, 6, 3, 5], 6, true),
        ([8, 3, 2, 4], 7, true),
        ([4, 19, 2, 2], 4, true),
        ([1, 150, 1, 4], 330, false),
        ([1, 200, 1, 3], 200, true),
        ([2, 1, 2, 64], 1, false),
        ([2, 70, 2, 64], 77, false),
        ([1, 133, 1, 64], 150, false),
        ([1, 200, 2, 64], 300, false),
        ([1, 190, 3, 64], 140, false),
        ([3, 150, 1, 64], 260, false),
        ([1, 130, 1, 64], 577, false),
        ([1, 300, 1, 64], 77, false),
        ([1, 650, 1, 64], 140, false),
        ([1, 77, 2, 64], 77, true),
        ([1, 90, 1, 40], 77, false),
        ([1, 65, 1, 80], 66, false),
        ([1, 130, 1, 128], 131, false),
        ([2, 140, 1, 128], 260, false),
        ([1, 33, 1, 160], 97, true),
        ([1, 40, 1, 136], 1, false),
        ([1, 35, 1, 512], 45, false),
        ([2, 140, 1, 40], 270, false),
        ([1, 270, 2, 24], 150, true),
        ([1, 150, 1, 56], 300, true),
        ([1, 260, 1, 64], 260, true),
        ([1, 140, 2, 72], 200, false),
        ([1, 270, 1, 80], 260, true),
        ([1, 133, 1, 104], 150, false),
        ([1, 200, 1, 128], 210, true),
        ([1, 140, 1, 160], 180, false),
        ([1, 70, 1, 512], 150, true),
        ([2, 130, 1, 264], 200, false),
    ];
    let mut all: Vec<Case> = shapes.into_iter().map(case).collect();
    // large scores: the running maximum moves from block to block
    let (q, k) = ([1, 150, 3, 64], [1, 260, 3, 64]);
    let op = Attention { causal: false, scale: 1.0, products: DType::F32 };
    all.push(Case::normal("attention, large scores", op, &[&q, &k, &k]));
    all.extend(biased_cases());
    all
}

/// Samples, grid, heads, channels.
type Grid = (usize, [usize; 2], [usize; 2]);

/// One position, one row, one column, odd grids, several blocks of keys, the windows of SAM and of TinyViT, a row of 64
/// as in SAM's global blocks, both output slices of the kernels; no sample.
fn biased_cases() -> Vec<Case> {
    let shapes: [Grid; 11] = [
        (3, [1, 1], [2, 3]),
        (2, [1, 5], [3, 4]),
        (2, [4, 1], [1, 2]),
        (2, [3, 4], [2, 6]),
        (1, [7, 7], [4, 32]),
        (2, [14, 14], [2, 64]),
        (1, [14, 14], [1, 80]),
        (1, [9, 64], [1, 64]),
        (1, [20, 26], [1, 16]),
        (1, [6, 7], [2, 136]),
        (0, [2, 2], [1, 4]),
    ];
    shapes
        .into_iter()
        .flat_map(|s| [Bias::Decomposed, Bias::Offsets].map(|b| biased(s, b)))
        .collect()
}

fn biased((n, grid, [h, d]): Grid, bias: Bias) -> Case {
    let [gh, gw] = grid;
    let l = gh * gw;
    let q = [n, l, h, d];
    let [down, across, table] = [vec![n, l, h, 2 * gh - 1], vec![n, l, h, 2 * gw - 1], vec![h, l]];
    let mut dims: Vec<&[usize]> = vec![&q, &q, &q];
    match bias {
        Bias::Decomposed => dims.extend([&down[..], &across]),
        Bias::Offsets => dims.push(&table),
    }
    let op = BiasedAttention { scale: 1.0 / (d as f32).sqrt(), grid, bias };
    let mut case = Case::normal(&format!("attention biased {bias:?} {gh}x{gw}"), op, &dims);
    // all keys are at one distance: what is added to all of a query's scores has no gradient but roundings
    if bias == Bias::Decomposed {
        case.grads[3..].copy_from_slice(&[gh > 1, gw > 1]);
    }
    if l == 1 {
        // all gradients but v's are 0, what is computed is a difference of roundings
        case.grads.fill(false);
        case.grads[2] = true;
    }
    case
}

/// Self and cross attention of SDXL at batch 1, 2 and 4, of Stable Diffusion 1.5, of CLIP and its image towers, and
/// the VAE's head; the attentions of SAM's encoders.
pub fn bench_cases() -> Vec<Case> {
    let mut shapes: Vec<Shape> = vec![];
    for n in [1, 2, 4] {
        for (l, h) in [(4096, 10), (1024, 20)] {
            shapes.extend([([n, l, h, 64], l, false), ([n, l, h, 64], 77, false)]);
        }
    }
    for (l, d) in [(4096, 40), (1024, 80), (256, 160), (64, 160)] {
        shapes.extend([([1, l, 8, d], l, false), ([1, l, 8, d], 77, false)]);
    }
    shapes.extend([([1, 257, 16, 80], 257, false), ([1, 257, 16, 104], 257, false)]);
    shapes.extend([([4, 77, 12, 64], 77, true), ([4, 77, 20, 64], 77, true)]);
    shapes.push(([1, 16384, 1, 512], 16384, false));
    let mut all: Vec<Case> = shapes.into_iter().map(case).collect();
    // SAM ViT-H and ViT-B at 1024 pixels: windows and global blocks; TinyViT's three stages with attention
    let decomposed: [Grid; 4] = [
        (25, [14, 14], [16, 80]),
        (1, [64, 64], [16, 80]),
        (25, [14, 14], [12, 64]),
        (1, [64, 64], [12, 64]),
    ];
    let offsets: [Grid; 3] =
        [(361, [7, 7], [4, 32]), (25, [14, 14], [5, 32]), (100, [7, 7], [10, 32])];
    all.extend(decomposed.into_iter().map(|s| biased(s, Bias::Decomposed)));
    all.extend(offsets.into_iter().map(|s| biased(s, Bias::Offsets)));
    all
}

fn case((q, lk, causal): Shape) -> Case {
    let op = Attention { causal, scale: 1.0 / (q[3] as f32).sqrt(), products: DType::F32 };
    let k = [q[0], lk, q[2], q[3]];
    let name = if causal { "attention causal" } else { "attention" };
    let mut case = Case::normal(name, op, &[&q, &k, &k]);
    if lk == 1 {
        // the gradients of q and k are 0, what is computed is a difference of roundings
        case.grads = vec![false, false, true];
    }
    case
}
