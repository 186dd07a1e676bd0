//! The compiled products: tiles, symbols, assumed speeds.

use super::problem::OnChip;
use crate::kernels::variant::Variant;

/// Which instructions a kernel is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// Ordinary multipliers.
    Simt,
    /// `mma.sync` and `cp.async`.
    Sm80,
    /// `wgmma`, TMA and clusters.
    Sm90,
    /// The same for a narrow side, bound by reading the wide operand.
    Narrow,
}

/// One kernel of every pass and element type.
#[derive(Debug)]
pub(crate) struct Tiling {
    /// The variant's name.
    pub name: &'static str,
    /// Its instructions.
    pub family: Family,
    /// Rows of a tile.
    pub rows: usize,
    /// Columns of a tile; of `Narrow` the most the narrow side has.
    pub cols: usize,
    /// Blocks a multiprocessor holds.
    pub resident: usize,
    /// Share of the tensor cores' 2048 multiply-adds a clock that the main loop is assumed to reach.
    pub rate: f64,
    /// What a tile costs besides its main loop: filling the pipeline, writing the results.
    pub edge_us: f64,
    /// Symbols by pass, then element type; empty where there is none.
    pub symbols: [[&'static str; 3]; 3],
    /// The same of the kernels that make an adapter's product first.
    pub adapted: [[&'static str; 3]; 3],
}

/// `linear_<pass>_<tile>_<type>` of the 16-bit types.
macro_rules! symbols {
    ($pass:literal, $tile:literal) => {
        [
            "",
            concat!("linear_", $pass, "_", $tile, "_bf16"),
            concat!("linear_", $pass, "_", $tile, "_f16"),
        ]
    };
}
const NONE: [&str; 3] = [""; 3];

pub(super) const SIMT: Tiling = Tiling {
    name: "simt",
    family: Family::Simt,
    rows: 64,
    cols: 64,
    resident: 6,
    rate: 0.04,
    edge_us: 1.5,
    symbols: [
        ["linear_forward_simt_f32", "linear_forward_simt_bf16", "linear_forward_simt_f16"],
        ["linear_input_simt_f32", "linear_input_simt_bf16", "linear_input_simt_f16"],
        ["linear_weight_simt_f32", "linear_weight_simt_bf16", "linear_weight_simt_f16"],
    ],
    adapted: [NONE; 3],
};
pub(super) const SM80_128: Tiling = Tiling {
    name: "sm80_128",
    family: Family::Sm80,
    rows: 128,
    cols: 128,
    resident: 2,
    rate: 0.45,
    symbols: [
        symbols!("forward", "sm80_128"),
        symbols!("input", "sm80_128"),
        symbols!("weight", "sm80_128"),
    ],
    ..SIMT
};
pub(super) const SM80_64: Tiling = Tiling {
    name: "sm80_64",
    rows: 64,
    cols: 64,
    resident: 4,
    rate: 0.3,
    symbols: [
        symbols!("forward", "sm80_64"),
        symbols!("input", "sm80_64"),
        symbols!("weight", "sm80_64"),
    ],
    ..SM80_128
};
pub(super) const SM90_256X160: Tiling = Tiling {
    name: "sm90_256x160",
    family: Family::Sm90,
    rows: 256,
    cols: 160,
    resident: 1,
    rate: 0.89,
    edge_us: 1.2,
    symbols: [
        symbols!("forward", "sm90_256x160"),
        symbols!("input", "sm90_256x160"),
        symbols!("weight", "sm90_256x160"),
    ],
    adapted: [
        symbols!("adapted_forward", "sm90_256x160"),
        symbols!("adapted_input", "sm90_256x160"),
        NONE,
    ],
};
pub(super) const SM90_128X256: Tiling = Tiling {
    name: "sm90_128x256",
    rows: 128,
    cols: 256,
    symbols: [symbols!("forward", "sm90_128x256"), symbols!("input", "sm90_128x256"), NONE],
    adapted: [NONE; 3],
    ..SM90_256X160
};
pub(super) const SM90_128X160: Tiling = Tiling {
    name: "sm90_128x160",
    rows: 128,
    cols: 160,
    rate: 0.78, // bound by shared memory
    edge_us: 1.0,
    symbols: [
        symbols!("forward", "sm90_128x160"),
        symbols!("input", "sm90_128x160"),
        symbols!("weight", "sm90_128x160"),
    ],
    adapted: [
        symbols!("adapted_forward", "sm90_128x160"),
        symbols!("adapted_input", "sm90_128x160"),
        NONE,
    ],
    ..SM90_256X160
};
/// The epilogue of one tile runs under the other's main loop.
pub(super) const SM90_PING: Tiling = Tiling {
    name: "sm90_128x160_ping",
    edge_us: 0.6,
    symbols: [symbols!("forward", "sm90_128x160_ping"), NONE, NONE],
    adapted: [NONE; 3],
    ..SM90_128X160
};
pub(super) const SM90_NARROW_32: Tiling = Tiling {
    name: "sm90_skinny32",
    family: Family::Narrow,
    rows: 64,
    cols: 32,
    resident: 2,
    rate: 0.0,    // predicted from bytes
    edge_us: 3.5, // with the start of a Hopper kernel and the join in the cluster
    symbols: [
        symbols!("forward", "sm90_skinny32"),
        symbols!("input", "sm90_skinny32"),
        symbols!("weight", "sm90_skinny32"),
    ],
    adapted: [NONE; 3],
};
pub(super) const SM90_NARROW_64: Tiling = Tiling {
    name: "sm90_skinny64",
    cols: 64,
    symbols: [
        symbols!("forward", "sm90_skinny64"),
        symbols!("input", "sm90_skinny64"),
        symbols!("weight", "sm90_skinny64"),
    ],
    ..SM90_NARROW_32
};
pub(super) const SM90_NARROW_128: Tiling = Tiling {
    name: "sm90_skinny128",
    cols: 128,
    resident: 1,
    symbols: [
        symbols!("forward", "sm90_skinny128"),
        symbols!("input", "sm90_skinny128"),
        symbols!("weight", "sm90_skinny128"),
    ],
    ..SM90_NARROW_32
};

/// One launch of two weight gradients with a narrow side: columns of the wider and of the other side, name, symbols by
/// element type. Two of one width are the tiling's own kernel.
pub(super) const NARROW_PAIRS: [([usize; 2], &str, [&str; 3]); 3] = [
    ([64, 32], "sm90_skinny64x32", symbols!("weight", "sm90_skinny64x32")),
    ([128, 32], "sm90_skinny128x32", symbols!("weight", "sm90_skinny128x32")),
    ([128, 64], "sm90_skinny128x64", symbols!("weight", "sm90_skinny128x64")),
];

/// [`super::fused`]'s kernels, which are not products of their own.
pub(super) const GATED: Tiling = Tiling {
    name: "sm90_geglu",
    symbols: [["", "linear_geglu_sm90_bf16", "linear_geglu_sm90_f16"], NONE, NONE],
    ..SM90_128X256
};
pub(super) const ACTIVATED: Tiling = Tiling {
    name: "sm90_activated",
    symbols: [["", "linear_activated_sm90_bf16", "linear_activated_sm90_f16"], NONE, NONE],
    adapted: [NONE; 3],
    ..SM90_128X160
};
/// [`super::gated`]'s: the layer, and the gradient of what the next one got.
pub(super) const KEPT: Tiling = Tiling {
    name: "sm90_geglu_kept",
    symbols: [["", "linear_kept_sm90_bf16", "linear_kept_sm90_f16"], NONE, NONE],
    ..SM90_128X256
};
pub(super) const GATED_INPUT: Tiling = Tiling {
    name: "sm90_gated_input",
    rows: 128,
    cols: 128,
    rate: 0.78,
    edge_us: 0.6,
    symbols: [NONE, ["", "linear_gated_input_sm90_bf16", "linear_gated_input_sm90_f16"], NONE],
    ..SM90_128X256
};
/// [`super::joined`]'s.
pub(super) const JOINED_256X160: Tiling = Tiling {
    name: "sm90_joined_256x160",
    symbols: [symbols!("joined", "sm90_256x160"), NONE, NONE],
    adapted: [symbols!("adapted_joined", "sm90_256x160"), NONE, NONE],
    ..SM90_256X160
};
pub(super) const JOINED_128X160: Tiling = Tiling {
    name: "sm90_joined_128x160",
    symbols: [symbols!("joined", "sm90_128x160"), NONE, NONE],
    adapted: [symbols!("adapted_joined", "sm90_128x160"), NONE, NONE],
    ..SM90_128X160
};

/// The input gradients of joined layers.
pub(super) const JOINED_INPUT_256X160: Tiling = Tiling {
    name: "sm90_joined_input_256x160",
    symbols: [NONE, symbols!("joined_input", "sm90_256x160"), NONE],
    adapted: [NONE, symbols!("adapted_joined_input", "sm90_256x160"), NONE],
    ..SM90_256X160
};
pub(super) const JOINED_INPUT_128X160: Tiling = Tiling {
    name: "sm90_joined_input_128x160",
    symbols: [NONE, symbols!("joined_input", "sm90_128x160"), NONE],
    adapted: [NONE, symbols!("adapted_joined_input", "sm90_128x160"), NONE],
    ..SM90_128X160
};

/// In the order of [`VARIANTS`].
pub(super) const TILINGS: [&Tiling; 10] = [
    &SM90_256X160,
    &SM90_128X256,
    &SM90_128X160,
    &SM90_PING,
    &SM90_NARROW_32,
    &SM90_NARROW_64,
    &SM90_NARROW_128,
    &SM80_128,
    &SM80_64,
    &SIMT,
];
/// The rows of `--variant linear=...`; the generic one last.
pub(crate) const VARIANTS: &[Variant<OnChip>] = &[
    Variant { name: SM90_256X160.name, applies: |p| SM90_256X160.applies(p) },
    Variant { name: SM90_128X256.name, applies: |p| SM90_128X256.applies(p) },
    Variant { name: SM90_128X160.name, applies: |p| SM90_128X160.applies(p) },
    Variant { name: SM90_PING.name, applies: |p| SM90_PING.applies(p) },
    Variant { name: SM90_NARROW_32.name, applies: |p| SM90_NARROW_32.applies(p) },
    Variant { name: SM90_NARROW_64.name, applies: |p| SM90_NARROW_64.applies(p) },
    Variant { name: SM90_NARROW_128.name, applies: |p| SM90_NARROW_128.applies(p) },
    Variant { name: SM80_128.name, applies: |p| SM80_128.applies(p) },
    Variant { name: SM80_64.name, applies: |p| SM80_64.applies(p) },
    Variant { name: SIMT.name, applies: |p| SIMT.applies(p) },
];
