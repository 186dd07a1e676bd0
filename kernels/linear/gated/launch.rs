//! Launches of both products around a GEGLU: one Hopper kernel each, or the product and a pass.

use crate::{
    device::{Cuda, TensorMap, Touched, cubin_table::Target},
    error::Result,
    kernels::{
        elementwise::OVERWRITE,
        geglu,
        linear::{
            problem::{OnChip, Operands, Pass, Problem},
            tensor::{self, Maps, Matrix, Raster, TensorArgs, counters, units},
            tilings::{GATED_INPUT, KEPT, Tiling},
        },
        variant::{Slot, Variant, choose},
    },
    tensor::Spec,
};

/// Rows of `--variant linear_gated.layer=...` and `linear_gated.input=...`.
const LAYER_VARIANTS: &[Variant<OnChip>] = &[
    Variant { name: KEPT.name, applies: |p| on_hopper(p, &KEPT) && p.problem.n.is_multiple_of(16) },
    Variant { name: "two_steps", applies: |_| true },
];
const INPUT_VARIANTS: &[Variant<OnChip>] = &[
    Variant { name: GATED_INPUT.name, applies: |p| on_hopper(p, &GATED_INPUT) },
    Variant { name: "two_steps", applies: |_| true },
];
const SLOT_LAYER: &str = "linear_gated.layer";
const SLOT_INPUT: &str = "linear_gated.input";

/// What there is to choose from.
pub(super) fn slots() -> Vec<Slot> {
    vec![Slot::of(SLOT_LAYER, LAYER_VARIANTS), Slot::of(SLOT_INPUT, INPUT_VARIANTS)]
}

fn on_hopper(p: &OnChip, t: &Tiling) -> bool {
    matches!(p.target, Target::Sm90a | Target::Host) && t.serves(&p.problem)
}

/// `GatedArgs` of `gemm/gated_sm90.cuh`.
#[repr(C, align(64))]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct GatedArgs {
    product: TensorArgs,
    first: TensorMap,
    second: TensorMap,
}

/// One of the two products, and the `[v, g]` of the layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gated {
    /// The layer's (`n` values and gates), or that of `dh = dy w` (`n` values).
    pub problem: Problem,
    /// Address of `[v, g]`, rows of values and gates.
    pub sums: u64,
}

impl Gated {
    fn is_layer(&self) -> bool {
        self.problem.pass == Pass::Forward
    }

    fn tiling(&self) -> &'static Tiling {
        if self.is_layer() { &KEPT } else { &GATED_INPUT }
    }

    /// Whether its own kernel is chosen.
    fn is_one(&self, cuda: &Cuda) -> Result<bool> {
        let on = OnChip { problem: self.problem, target: cuda.target() };
        let (slot, all) = match self.is_layer() {
            true => (SLOT_LAYER, LAYER_VARIANTS),
            false => (SLOT_INPUT, INPUT_VARIANTS),
        };
        Ok(choose(cuda, slot, all, &on)?.name != "two_steps")
    }

    pub fn describe(&self, cuda: &Cuda) -> String {
        match self.is_one(cuda) {
            Ok(true) => self.tiling().name.into(),
            _ => format!("{} and a pass", self.problem.describe(cuda)),
        }
    }

    /// Values of a row.
    fn width(&self) -> usize {
        if self.is_layer() { self.problem.n / 2 } else { self.problem.n }
    }

    /// Values of all rows.
    fn values(&self) -> Spec {
        Spec::new(&[self.problem.m, self.width()], self.problem.dtype)
    }

    /// Bytes of the input's `dh` where a second pass reads it; what follows it is aligned.
    fn h_bytes(&self) -> usize {
        if self.is_layer() { 0 } else { self.values().bytes().next_multiple_of(256) }
    }

    /// Scratch of [`Gated::run`], whatever computes it.
    pub fn scratch_bytes(&self) -> usize {
        let (p, t) = (&self.problem, self.tiling());
        let one = if t.serves(p) { tensor::scratch_bytes(p, t) } else { 0 };
        p.scratch_bytes().saturating_add(self.h_bytes()).max(one)
    }

    /// Launches the layer (`o.out` is `v gelu(g)`, `sums` are written) or the input (`o.out` is the gradient of `[v, g]`,
    /// `sums` are read).
    ///
    /// # Errors
    /// Those of the maps and the launches.
    pub fn run(&self, cuda: &Cuda, o: &Operands, scratch: u64) -> Result<()> {
        let p = &self.problem;
        if p.m == 0 || p.n == 0 {
            return Ok(());
        }
        if self.is_one(cuda)? {
            return self.run_one(cuda, o, scratch);
        }
        if self.is_layer() {
            p.run(cuda, &Operands { out: self.sums, ..*o }, scratch)?;
            return geglu::cuda::apply(cuda, &self.values(), self.sums, o.out);
        }
        p.run(cuda, &Operands { out: scratch, ..*o }, scratch + self.h_bytes() as u64)?;
        geglu::cuda::gradient(cuda, &self.values(), [self.sums, scratch, o.out], OVERWRITE)
    }

    fn run_one(&self, cuda: &Cuda, o: &Operands, scratch: u64) -> Result<()> {
        let (p, t, d) = (&self.problem, self.tiling(), self.width());
        let maps = Maps { cuda, p };
        let size = p.dtype.size_bytes();
        // one half of rows of `2 d`
        let half = |what, at: u64, gates: bool| {
            let address = at + if gates { (d * size) as u64 } else { 0 };
            maps.result_of(Matrix { what, address, rows: p.m, columns: d, pitch: 2 * d }, t)
        };
        let mut product = tensor::args(cuda, p, t, o, scratch, d)?;
        let (first, second) = if self.is_layer() {
            (half("values", self.sums, false)?, half("gates", self.sums, true)?)
        } else {
            product.out = half("gradient of the values", o.out, false)?;
            product.residual = half("values", self.sums, false)?;
            (half("gates", self.sums, true)?, half("gradient of the gates", o.out, true)?)
        };
        // the layer writes values, gates and results; the input reads values and gates and writes both gradients
        let (columns, out) = if self.is_layer() { (3 * d, d) } else { (4 * d, 2 * d) };
        let mut touches = p.touches(o, scratch);
        touches.retain(|t| t.address != o.out && t.address != scratch);
        let of =
            |what, address, columns: usize| Touched { what, address, bytes: p.m * columns * size };
        touches.extend([of("out", o.out, out), of("values and gates", self.sums, 2 * d)]);
        touches.push(counters(cuda, &product));
        let bytes = tensor::scratch_bytes(p, t);
        if bytes > 0 {
            touches.push(Touched { what: "partial sums", address: scratch, bytes });
        }
        let kernel = cuda.kernel::<GatedArgs>("linear", t.symbol(p))?;
        let kernel = kernel.taking(Raster::new(p, t).cut(t).effort(p, o, columns));
        let grid = cuda.persistent_grid(&kernel, units(&product))?;
        cuda.launch(&kernel, grid, &GatedArgs { product, first, second }, &touches)
    }
}
