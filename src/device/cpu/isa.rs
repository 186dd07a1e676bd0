//! Which vector instructions the CPU side uses: the widest set of this machine, or a narrower one by request.

use super::bf16::Unit;
use crate::error::{Error, Result};
use std::sync::OnceLock;

/// The environment variable that narrows the set, for tests and for measuring.
pub const ISA_VARIABLE: &str = "SELVEDGE_ISA";

/// A set of vector instructions; everything on the CPU (products, reductions, elementwise loops) uses the
/// same one. `Amx` and `Avx512Bf16` are `Avx512` with units for products of bf16 numbers beside it: f32 is computed
/// by all three alike, bit for bit.
///
/// # Numerics
/// `Portable` multiplies and adds with two roundings, the others fuse them in products: results of
/// different sets differ in the last bits, those of one set do not depend on the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// x86-64: AVX-512 and AMX-BF16 tiles, where the system grants them.
    Amx,
    /// x86-64: AVX-512 and AVX-512-BF16.
    Avx512Bf16,
    /// x86-64: AVX-512 F, BW, CD, DQ and VL.
    Avx512,
    /// x86-64: AVX2 and FMA.
    Avx2,
    /// 64-bit Arm.
    Neon,
    /// What the compiler makes of plain loops, on any processor.
    Portable,
}

impl Isa {
    /// Widest first.
    pub const ALL: [Self; 6] =
        [Self::Amx, Self::Avx512Bf16, Self::Avx512, Self::Avx2, Self::Neon, Self::Portable];

    /// The word for [`ISA_VARIABLE`] and for reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Amx => "amx",
            Self::Avx512Bf16 => "avx512bf16",
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Neon => "neon",
            Self::Portable => "portable",
        }
    }

    /// Whether this processor has it.
    pub fn is_there(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx => Self::Avx512Bf16.is_there() && super::bf16::tiles_are_granted(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => Self::Avx512.is_there() && is_x86_feature_detected!("avx512bf16"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_there()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512cd")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            // every 64-bit Arm processor has it, and the compiler counts on it
            #[cfg(target_arch = "aarch64")]
            Self::Neon => true,
            Self::Portable => true,
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }

    /// The sets of this machine, widest first.
    pub fn available() -> Vec<Self> {
        Self::ALL.into_iter().filter(|isa| isa.is_there()).collect()
    }

    /// The set of a word of [`ISA_VARIABLE`]; empty is the widest.
    ///
    /// # Errors
    /// [`Error::Config`] for an unknown word or a set that this processor lacks.
    pub fn parse(word: &str) -> Result<Self> {
        let available = Self::available();
        let fits = |isa: &&Self| word.is_empty() || isa.name() == word;
        available.iter().find(fits).copied().ok_or_else(|| Error::Config {
            key: ISA_VARIABLE.into(),
            found: word.into(),
            expected: available.iter().map(|i| i.name()).collect::<Vec<_>>().join(", "),
            fix: "these are what this processor has; leave it out for the widest".into(),
        })
    }

    /// The set in use: read from the environment once.
    ///
    /// # Errors
    /// As [`Isa::parse`].
    pub fn asked() -> Result<Self> {
        Self::parse(&std::env::var(ISA_VARIABLE).unwrap_or_default())
    }

    /// The set in use. A program that wants a wrong word refused calls [`Isa::asked`] first; here it
    /// means the widest.
    #[inline]
    pub fn current() -> Self {
        static CURRENT: OnceLock<Isa> = OnceLock::new();
        *CURRENT.get_or_init(|| Self::asked().unwrap_or(Self::widest()))
    }

    /// What multiplies bf16 numbers; `None` where they are widened to f32 while they are packed.
    pub fn unit(self) -> Option<Unit> {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx => Some(Unit::Amx),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => Some(Unit::Avx512Bf16),
            _ => None,
        }
    }

    fn widest() -> Self {
        Self::available().first().copied().unwrap_or(Self::Portable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_name_the_sets_of_this_machine_and_no_others() {
        assert_eq!(Isa::parse("").unwrap(), Isa::available()[0]);
        assert_eq!(Isa::parse("portable").unwrap(), Isa::Portable);
        for isa in Isa::ALL {
            assert_eq!(Isa::parse(isa.name()).is_ok(), isa.is_there(), "{isa:?}");
        }
        let error = Isa::parse("mmx").unwrap_err().to_string();
        assert!(error.contains("SELVEDGE_ISA") && error.contains("portable"), "{error}");
    }
}
