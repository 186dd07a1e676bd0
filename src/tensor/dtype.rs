//! Element types.

use half::{bf16, f16, slice::HalfFloatSliceExt};
use serde::{Deserialize, Serialize};

/// Element type of a value; data, never a type parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// 32-bit float: accumulators, adapters, activations on the CPU.
    #[default]
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half.
    F16,
    /// 32-bit integer: token ids, row indices.
    I32,
}

impl DType {
    /// Those that operations compute with.
    pub const FLOATS: [DType; 3] = [DType::F32, DType::Bf16, DType::F16];

    /// Bytes of one element.
    pub fn size_bytes(self) -> usize {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::Bf16 | DType::F16 => 2,
        }
    }

    /// `values` as stored in this type, rounded to the nearest; integers take the bits.
    pub fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            DType::F32 | DType::I32 => bytemuck::cast_slice(values).to_vec(),
            DType::Bf16 => {
                let rounded: Vec<u16> =
                    values.iter().map(|v| bf16::from_f32(*v).to_bits()).collect();
                bytemuck::cast_slice(&rounded).to_vec()
            }
            DType::F16 => {
                let rounded: Vec<u16> =
                    values.iter().map(|v| f16::from_f32(*v).to_bits()).collect();
                bytemuck::cast_slice(&rounded).to_vec()
            }
        }
    }

    /// `values` rounded to the nearest of this type, bf16 or f16, as bits; of any other type nothing.
    pub fn halves(self, values: &[f32]) -> Vec<u16> {
        let mut bits = vec![0; values.len()];
        match self {
            DType::Bf16 => {
                bytemuck::cast_slice_mut::<_, bf16>(&mut bits).convert_from_f32_slice(values);
            }
            DType::F16 => {
                bytemuck::cast_slice_mut::<_, f16>(&mut bits).convert_from_f32_slice(values);
            }
            DType::F32 | DType::I32 => bits.clear(),
        }
        bits
    }

    /// Stored elements as f32; integers keep their bits.
    pub fn decode(self, bytes: &[u8]) -> Vec<f32> {
        let short = |b: &[u8]| u16::from_ne_bytes([b[0], b[1]]);
        let word = |b: &[u8]| f32::from_ne_bytes([b[0], b[1], b[2], b[3]]);
        match self {
            DType::F32 | DType::I32 => bytes.chunks_exact(4).map(word).collect(),
            DType::Bf16 => {
                bytes.chunks_exact(2).map(|b| bf16::from_bits(short(b)).to_f32()).collect()
            }
            DType::F16 => {
                bytes.chunks_exact(2).map(|b| f16::from_bits(short(b)).to_f32()).collect()
            }
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::Bf16 => "bf16",
            DType::F16 => "f16",
            DType::I32 => "i32",
        })
    }
}
