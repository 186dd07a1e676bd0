//! How many blocks a multiprocessor holds, from registers, shared memory and threads: no GPU needed.

use super::{cubin::KernelInfo, cubin_table::Target};

/// What a multiprocessor has to give.
struct Multiprocessor {
    shared_bytes: u32,
    registers: u32,
    warps: u32,
    blocks: u32,
}

const WARP: u32 = 32;
/// Every block's share that the system takes, since compute capability 8.0.
const SYSTEM_SHARED_BYTES: u32 = 1024;
const SHARED_UNIT: u32 = 128;
/// Registers are given to a warp in units of 256, from one of four banks.
const REGISTER_UNIT: u32 = 256;
const BANKS: u32 = 4;

/// Blocks of a kernel that one multiprocessor of `target` holds; `None` for the host.
pub fn blocks_per_multiprocessor(target: Target, kernel: &KernelInfo) -> Option<u32> {
    let chip = match target {
        Target::Sm80 | Target::Ptx => {
            Multiprocessor { shared_bytes: 164 << 10, registers: 65536, warps: 64, blocks: 32 }
        }
        Target::Sm90a => {
            Multiprocessor { shared_bytes: 228 << 10, registers: 65536, warps: 64, blocks: 32 }
        }
        Target::Host => return None,
    };
    let warps = kernel.tile.threads.div_ceil(WARP).max(1);
    let shared = (kernel.tile.shared_bytes + SYSTEM_SHARED_BYTES).next_multiple_of(SHARED_UNIT);
    let a_warp = (kernel.registers?.max(1) * WARP).next_multiple_of(REGISTER_UNIT);
    let by_registers = chip.registers / BANKS / a_warp * BANKS / warps;
    let limits = [chip.blocks, chip.warps / warps, chip.shared_bytes / shared, by_registers];
    limits.into_iter().min()
}

/// Share of a multiprocessor's warps that `blocks` blocks of `threads` threads fill.
pub fn warp_share(blocks: u32, threads: u32) -> f64 {
    f64::from(blocks * threads.div_ceil(WARP)) / 64.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cubin::Tile;

    fn kernel(threads: u32, registers: u32, shared_bytes: u32) -> KernelInfo {
        let tile = Tile {
            block_rows: 1,
            block_cols: 1,
            stages: 1,
            threads,
            shared_bytes,
            args_bytes: 8,
            blocks_per_sm: 1,
            cluster: 1,
        };
        let (name, none) = ("k".to_string(), Some(0));
        let registers = Some(registers);
        KernelInfo { name, tile, registers, local_bytes: none, param_bytes: none }
    }

    /// Numbers of NVIDIA's occupancy calculator.
    #[test]
    fn every_limit_binds_once() {
        let sm90 = |t, r, s| blocks_per_multiprocessor(Target::Sm90a, &kernel(t, r, s));
        assert_eq!(sm90(32, 16, 0), Some(32)); // blocks
        assert_eq!(sm90(1024, 32, 0), Some(2)); // warps
        assert_eq!(sm90(256, 64, 0), Some(4)); // registers
        assert_eq!(sm90(384, 168, 0), Some(1));
        assert_eq!(sm90(128, 32, 227 << 10), Some(1)); // shared memory
        assert_eq!(sm90(128, 32, 75 << 10), Some(3));
        let sm80 = blocks_per_multiprocessor(Target::Sm80, &kernel(128, 32, 75 << 10));
        assert_eq!(sm80, Some(2));
        assert_eq!(blocks_per_multiprocessor(Target::Host, &kernel(128, 32, 0)), None);
    }
}
