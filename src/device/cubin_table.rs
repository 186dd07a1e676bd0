//! The objects that `build.rs` embedded.

use lzma_rust2::LzmaReader;
use std::io::Read as _;
use std::sync::OnceLock;

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
    embedded: Embedded,
    unpacked: OnceLock<Vec<u8>>,
}

/// How an object lies in the program.
#[derive(Debug)]
#[allow(dead_code)] // a build has the one or the other
enum Embedded {
    /// As compiled by this build.
    Plain(&'static [u8]),
    /// Compressed by xz.
    Packed(&'static [u8]),
}

#[allow(dead_code)] // a build has the one or the other
impl Object {
    const fn plain(source: &'static str, target: Target, image: &'static [u8]) -> Self {
        Self { source, target, embedded: Embedded::Plain(image), unpacked: OnceLock::new() }
    }

    const fn packed(source: &'static str, target: Target, image: &'static [u8]) -> Self {
        Self { source, target, embedded: Embedded::Packed(image), unpacked: OnceLock::new() }
    }

    /// Whether it is compressed: in release builds, and when it comes from `kernels/prebuilt/`.
    pub fn is_packed(&self) -> bool {
        matches!(self.embedded, Embedded::Packed(_))
    }

    /// The file, unpacked on first use; empty when it is damaged, which its reader then reports.
    pub fn image(&self) -> &[u8] {
        match self.embedded {
            Embedded::Plain(image) => image,
            Embedded::Packed(image) => {
                self.unpacked.get_or_init(|| unpack(image).unwrap_or_default())
            }
        }
    }
}

fn unpack(image: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut content = vec![];
    LzmaReader::new_mem_limit(image, u32::MAX, None)?.read_to_end(&mut content)?;
    Ok(content)
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

    /// `printf kernel | xz --format=lzma --lzma1=preset=9e,dict=4MiB`
    #[test]
    fn packed_objects_are_unpacked_and_damaged_ones_are_empty() {
        const PACKED: &[u8] = &[
            93, 0, 0, 64, 0, 255, 255, 255, 255, 255, 255, 255, 255, 0, 53, 153, 74, 171, 162, 226,
            180, 72, 78, 174, 255, 253, 83, 160, 0,
        ];
        let object = Object::packed("x.cu", Target::Sm80, PACKED);
        assert_eq!(object.image(), b"kernel");
        assert!(object.is_packed());
        assert!(Object::packed("x.cu", Target::Sm80, &PACKED[..9]).image().is_empty());
    }

    #[test]
    fn no_embedded_kernel_spills_and_all_arguments_agree() {
        for o in OBJECTS.iter().filter(|o| o.target != Target::Ptx) {
            let kernels = cubin::read(o.source, o.image()).unwrap();
            assert!(!kernels.is_empty(), "{}", o.source);
            for k in kernels {
                cubin::check(o.source, &k).unwrap();
                assert_eq!(k.registers.is_some(), o.target != Target::Host);
            }
        }
    }
}
