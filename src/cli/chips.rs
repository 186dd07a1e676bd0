//! What the chips can do at best.

use crate::{op::Cost, tensor::DType};

/// Peak rates of a chip.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chip {
    /// FLOP/s in f32 on the ordinary multipliers.
    pub f32_flop: f64,
    /// FLOP/s in bf16 and f16 on the matrix units, dense.
    pub half_flop: f64,
    /// Bytes/s of memory.
    pub bytes: f64,
}

/// Data sheets, of the SXM boards where there are several, f32 accumulation; the first name contained in the driver's name counts.
const CHIPS: [(&str, Chip); 7] = [
    ("GH200", Chip { f32_flop: 67e12, half_flop: 989e12, bytes: 4.0e12 }),
    ("H200", Chip { f32_flop: 67e12, half_flop: 989e12, bytes: 4.8e12 }),
    ("H100", Chip { f32_flop: 67e12, half_flop: 989e12, bytes: 3.35e12 }),
    ("A100", Chip { f32_flop: 19.5e12, half_flop: 312e12, bytes: 2.04e12 }),
    ("RTX 4090", Chip { f32_flop: 82.6e12, half_flop: 165e12, bytes: 1.008e12 }),
    ("L40S", Chip { f32_flop: 91.6e12, half_flop: 362e12, bytes: 0.864e12 }),
    ("A800", Chip { f32_flop: 19.5e12, half_flop: 312e12, bytes: 2.04e12 }),
];

impl Chip {
    /// The chip of this name, if it is known.
    pub fn of(name: &str) -> Option<Self> {
        CHIPS.iter().find(|(part, _)| name.contains(part)).map(|(_, chip)| *chip)
    }

    /// What the emulated device is measured against: the chip the kernels are made for.
    pub fn h200() -> Self {
        CHIPS[1].1
    }

    /// FLOP/s in an element type.
    pub fn flop(&self, dtype: DType) -> f64 {
        match dtype {
            DType::F32 | DType::I32 => self.f32_flop,
            DType::Bf16 | DType::F16 => self.half_flop,
        }
    }

    /// The least time of some work in ms.
    pub fn floor_ms(&self, cost: Cost, dtype: DType) -> f64 {
        (cost.flop / self.flop(dtype)).max(cost.bytes / self.bytes) * 1e3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_is_the_slower_of_arithmetic_and_memory() {
        let chip = Chip::h200();
        let arithmetic = Cost { flop: 989e9, bytes: 1.0 };
        assert!((chip.floor_ms(arithmetic, DType::Bf16) - 1.0).abs() < 1e-9);
        let memory = Cost { flop: 1.0, bytes: 4.8e9 };
        assert!((chip.floor_ms(memory, DType::Bf16) - 1.0).abs() < 1e-9);
        assert_eq!(Chip::of("NVIDIA H200"), Some(chip));
        assert_eq!(Chip::of("CPU emulator"), None);
        let bytes = |name| Chip::of(name).map(|c| c.bytes);
        assert!(bytes("NVIDIA A100-SXM4-80GB") < bytes("NVIDIA H100 80GB HBM3"));
        assert!(bytes("NVIDIA GH200 480GB") < bytes("NVIDIA H200"));
    }
}
