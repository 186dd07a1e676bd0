//! The objects that `build.rs` embedded.

/// What an object was compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code)] // a build makes those it has compilers for
pub enum Target {
    /// Compute capability 8.0 and later 8.x.
    Sm80,
    /// Compute capability 9.0 with Hopper's own instructions.
    Sm90a,
    /// Text for the driver's compiler: chips after 9.0.
    Ptx,
    /// This machine's processor, for the emulated driver.
    Host,
}

impl Target {
    /// The name in lists: `sm_80`, `sm_90a`, `ptx`, `host`.
    pub fn name(self) -> &'static str {
        match self {
            Target::Sm80 => "sm_80",
            Target::Sm90a => "sm_90a",
            Target::Ptx => "ptx",
            Target::Host => "host",
        }
    }

    /// What a chip runs; `None` below 8.0.
    pub fn of_chip(major: u32, minor: u32) -> Option<Target> {
        match (major, minor) {
            (8, _) => Some(Target::Sm80),
            (9, 0) => Some(Target::Sm90a),
            (9.., _) => Some(Target::Ptx),
            _ => None,
        }
    }
}

/// One compiled `.cu`.
#[derive(Debug)]
pub struct Object {
    /// Path below `kernels/`.
    pub source: &'static str,
    /// What it was compiled for.
    pub target: Target,
    /// The file.
    pub image: &'static [u8],
}

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cubin;

    #[test]
    fn a_chip_gets_the_object_made_for_it() {
        assert_eq!(Target::of_chip(7, 5), None);
        assert_eq!(Target::of_chip(8, 6), Some(Target::Sm80));
        assert_eq!(Target::of_chip(9, 0), Some(Target::Sm90a));
        assert_eq!(Target::of_chip(10, 0), Some(Target::Ptx));
    }

    #[test]
    fn no_embedded_kernel_spills_and_all_arguments_agree() {
        for o in OBJECTS.iter().filter(|o| o.target != Target::Ptx) {
            let kernels = cubin::read(o.source, o.image).unwrap();
            assert!(!kernels.is_empty(), "{}", o.source);
            for k in kernels {
                cubin::check(o.source, &k).unwrap();
                assert_eq!(k.registers.is_some(), o.target != Target::Host);
            }
        }
    }
}
