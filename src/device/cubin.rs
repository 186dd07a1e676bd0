//! Reads compiled objects without a driver: exported kernels, their tiles, registers, local memory.
//!
//! A `.cu` publishes `<kernel>_tile` beside each `<kernel>` (`kernels/common/export.cuh`). Both cubins and
//! kernels compiled for the host are ELF files, so one reader serves both; no input makes it panic.

use crate::error::{Error, Result};
use std::path::PathBuf;

/// Numbers of one kernel that the host needs; written once, in the `.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Rows one block covers.
    pub block_rows: u32,
    /// Columns (elements) one block covers.
    pub block_cols: u32,
    /// Stages of the copy pipeline.
    pub stages: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory, bytes.
    pub shared_bytes: u32,
    /// Size of the argument struct, bytes.
    pub args_bytes: u32,
    /// Blocks a multiprocessor is promised to hold.
    pub blocks_per_sm: u32,
    /// Blocks of a cluster (along x), 1 without one.
    pub cluster: u32,
}

/// Blocks of a cluster that every chip with clusters takes.
const MAX_CLUSTER: u32 = 8;

/// One kernel of a compiled object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelInfo {
    /// Symbol.
    pub name: String,
    /// Published tile.
    pub tile: Tile,
    /// Registers of a thread; none for the host.
    pub registers: Option<u32>,
    /// Local memory of a thread (spills, indexed arrays), bytes; none for the host.
    pub local_bytes: Option<u32>,
    /// Argument bytes as the compiler counted them; none for the host.
    pub param_bytes: Option<u32>,
}

const TILE_VERSION: u32 = 3;
const TILE_WORDS: usize = 9;
const SYMTAB: u64 = 2;
const DYNSYM: u64 = 11;
const ATTRIBUTE_FRAME_SIZE: u8 = 0x11;
const ATTRIBUTE_PARAM: u8 = 0x17;
/// Where a parameter's record keeps its size: above 18 bits of other facts.
const PARAM_SIZE_SHIFT: u64 = 18;
const ATTRIBUTE_REGISTERS: u8 = 0x2f;
const ATTRIBUTE_OF_SYMBOL: [u8; 3] = [4, 8, 0]; // format "sized value", 8 bytes: symbol, number

/// All kernels of `image`, sorted by name.
///
/// # Errors
/// [`Error::Format`] with `at` as the path: no ELF file, a table outside the file, a tile record of another version.
pub fn read(at: &str, image: &[u8]) -> Result<Vec<KernelInfo>> {
    let elf = Elf::parse(at, image)?;
    let mut found: Vec<KernelInfo> = vec![];
    for (index, symbol) in elf.symbols.iter().enumerate() {
        let Some(name) = symbol.name.strip_suffix("_tile") else { continue };
        if found.iter().any(|k| k.name == name) {
            continue; // both symbol tables of a shared object list it
        }
        let words = elf.words_of(symbol).filter(|w| w.len() == TILE_WORDS);
        let Some(words) = words.filter(|w| w[0] == TILE_VERSION) else {
            return Err(elf.bad(
                &format!(
                    "symbol {index} ({}) is no tile record of version {TILE_VERSION}",
                    symbol.name
                ),
                "a record of 9 words; objects made before need tools/kernel.sh again",
            ));
        };
        let tile = Tile {
            block_rows: words[1],
            block_cols: words[2],
            stages: words[3],
            threads: words[4],
            shared_bytes: words[5],
            args_bytes: words[6],
            blocks_per_sm: words[7],
            cluster: words[8],
        };
        found.push(KernelInfo {
            name: name.to_string(),
            tile,
            registers: elf.attribute(name, ATTRIBUTE_REGISTERS),
            local_bytes: elf.attribute(name, ATTRIBUTE_FRAME_SIZE),
            param_bytes: elf.param_bytes(name),
        });
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// The machine code of a kernel of a device object, 16 bytes an instruction; none where it is not there.
pub fn code<'a>(at: &'a str, image: &'a [u8], kernel: &str) -> Option<&'a [u8]> {
    let elf = Elf::parse(at, image).ok()?;
    let name = format!(".text.{kernel}");
    let section = elf.sections.iter().find(|s| s.name == name)?;
    slice(image, section.offset, section.size)
}

/// Refuses a kernel that uses local memory, or whose argument struct differs from its tile record.
///
/// # Errors
/// [`Error::Format`] that names object, kernel and number.
pub fn check(at: &str, kernel: &KernelInfo) -> Result<()> {
    let refuse = |found: String, expected: &str, fix: &str| {
        Err(Error::Format {
            path: PathBuf::from(at),
            found: format!("kernel {}: {found}", kernel.name),
            expected: expected.into(),
            fix: fix.into(),
        })
    };
    if let Some(bytes) = kernel.local_bytes.filter(|b| *b > 0) {
        return refuse(
            format!("{bytes} bytes of local memory a thread"),
            "none",
            "fewer live registers (smaller tile, launch bounds) or no run-time index into an array",
        );
    }
    if let Some(bytes) = kernel.param_bytes.filter(|b| *b != kernel.tile.args_bytes) {
        let expected = format!("{} as its tile record says", kernel.tile.args_bytes);
        return refuse(
            format!("{bytes} argument bytes"),
            &expected,
            "EXPORT it with its own struct",
        );
    }
    if kernel.tile.threads == 0 || kernel.tile.threads > 1024 {
        return refuse(format!("{} threads", kernel.tile.threads), "1 to 1024", "change its tile");
    }
    if kernel.tile.cluster == 0 || kernel.tile.cluster > MAX_CLUSTER {
        let found = format!("a cluster of {}", kernel.tile.cluster);
        return refuse(found, &format!("1 to {MAX_CLUSTER} blocks"), "change its tile");
    }
    Ok(())
}

struct Symbol<'a> {
    name: &'a str,
    section: usize,
    value: u64,
    size: u64,
    table: u64,
    number: u32,
}

struct Section<'a> {
    name: &'a str,
    kind: u64,
    address: u64,
    offset: u64,
    size: u64,
    link: u64,
}

struct Elf<'a> {
    at: &'a str,
    bytes: &'a [u8],
    sections: Vec<Section<'a>>,
    symbols: Vec<Symbol<'a>>,
}

impl<'a> Elf<'a> {
    fn parse(at: &'a str, bytes: &'a [u8]) -> Result<Self> {
        let mut elf = Elf { at, bytes, sections: vec![], symbols: vec![] };
        if !bytes.starts_with(b"\x7fELF\x02\x01") {
            return Err(elf.bad("no 64-bit little-endian ELF header", "a compiled kernel object"));
        }
        let complete = elf.read_sections().and_then(|()| elf.read_symbols());
        complete
            .ok_or_else(|| elf.bad("a table points outside the file", "a complete ELF file"))?;
        Ok(elf)
    }

    fn bad(&self, found: &str, expected: &str) -> Error {
        Error::Format {
            path: PathBuf::from(self.at),
            found: found.into(),
            expected: expected.into(),
            fix: "build again (tools/nvcc.sh gives the pinned compiler)".into(),
        }
    }

    fn read_sections(&mut self) -> Option<()> {
        let table = number(self.bytes, 40, 8)?;
        let entry = number(self.bytes, 58, 2)?;
        let count = number(self.bytes, 60, 2)?;
        let names = number(self.bytes, 62, 2)?;
        let header = |i: u64| Some(table.checked_add(i.checked_mul(entry)?)? as usize);
        let names_at = number(self.bytes, header(names)?.checked_add(24)?, 8)?;
        for i in 0..count {
            let h = header(i)?;
            let field = |offset: usize, n| number(self.bytes, h.checked_add(offset)?, n);
            self.sections.push(Section {
                name: text(self.bytes, names_at.checked_add(field(0, 4)?)?)?,
                kind: field(4, 4)?,
                address: field(16, 8)?,
                offset: field(24, 8)?,
                size: field(32, 8)?,
                link: field(40, 4)?,
            });
        }
        Some(())
    }

    fn read_symbols(&mut self) -> Option<()> {
        let mut symbols = vec![];
        for s in self.sections.iter().filter(|s| s.kind == SYMTAB || s.kind == DYNSYM) {
            let names = self.sections.get(s.link as usize)?.offset;
            for (i, raw) in slice(self.bytes, s.offset, s.size)?.chunks_exact(24).enumerate() {
                symbols.push(Symbol {
                    name: text(self.bytes, names.checked_add(number(raw, 0, 4)?)?)?,
                    section: number(raw, 6, 2)? as usize,
                    value: number(raw, 8, 8)?,
                    size: number(raw, 16, 8)?,
                    table: s.kind,
                    number: i as u32,
                });
            }
        }
        self.symbols = symbols;
        Some(())
    }

    /// The content of a data symbol as 32-bit words.
    fn words_of(&self, symbol: &Symbol<'_>) -> Option<Vec<u32>> {
        let section = self.sections.get(symbol.section)?;
        let start = section.offset.checked_add(symbol.value.checked_sub(section.address)?)?;
        let bytes = slice(self.bytes, start, symbol.size)?;
        bytes.chunks_exact(4).map(|w| number(w, 0, 4).map(|n| n as u32)).collect()
    }

    /// A number that `.nv.info` gives for a kernel.
    fn attribute(&self, kernel: &str, which: u8) -> Option<u32> {
        let symbol = self.symbols.iter().find(|s| s.name == kernel && s.table == SYMTAB)?;
        let section = self.sections.iter().find(|s| s.name == ".nv.info")?;
        let bytes = slice(self.bytes, section.offset, section.size)?;
        let key = [ATTRIBUTE_OF_SYMBOL[0], which, ATTRIBUTE_OF_SYMBOL[1], ATTRIBUTE_OF_SYMBOL[2]];
        attributes(bytes)
            .find(|a| a.starts_with(&key) && number(a, 4, 4) == Some(u64::from(symbol.number)))
            .and_then(|a| number(a, 8, 4))
            .map(|n| n as u32)
    }

    /// The size of a kernel's one argument from its own `.nv.info.<kernel>`. The section's total is of no use:
    /// it counts the gap before an argument of large alignment.
    fn param_bytes(&self, kernel: &str) -> Option<u32> {
        let name = format!(".nv.info.{kernel}");
        let section = self.sections.iter().find(|s| s.name == name)?;
        let bytes = slice(self.bytes, section.offset, section.size)?;
        let mut sizes = attributes(bytes)
            .filter(|a| a[..2] == [ATTRIBUTE_OF_SYMBOL[0], ATTRIBUTE_PARAM])
            .map(|a| number(a, 12, 4).map(|n| (n >> PARAM_SIZE_SHIFT) as u32));
        sizes.try_fold(0, |sum, size| Some(sum + size?))
    }
}

/// The records of an `.nv.info` section: format, attribute, and a 16-bit value or a 16-bit length with that many bytes.
fn attributes(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let head = rest.get(..4)?;
        let extra =
            if head[0] == 4 { usize::from(u16::from_le_bytes([head[2], head[3]])) } else { 0 };
        let record = rest.get(..4 + extra)?;
        rest = rest.get(4 + extra..)?;
        Some(record)
    })
}

fn slice(bytes: &[u8], offset: u64, len: u64) -> Option<&[u8]> {
    let end = offset.checked_add(len)?;
    bytes.get(usize::try_from(offset).ok()?..usize::try_from(end).ok()?)
}

/// Little-endian number of `n` bytes.
fn number(bytes: &[u8], at: usize, n: usize) -> Option<u64> {
    let raw = bytes.get(at..at.checked_add(n)?)?;
    Some(raw.iter().rev().fold(0, |sum, b| sum << 8 | u64::from(*b)))
}

fn text(bytes: &[u8], at: u64) -> Option<&str> {
    let from = bytes.get(usize::try_from(at).ok()?..)?;
    let end = from.iter().position(|b| *b == 0)?;
    std::str::from_utf8(&from[..end]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two kernels, one with 408 bytes of spills; made by `tools/planted_spill.sh`.
    const PLANTED: &[u8] = include_bytes!("../../tests/fixtures/planted_spill.cubin");

    #[test]
    fn tiles_registers_and_arguments_come_from_the_object() {
        let kernels = read("planted", PLANTED).unwrap();
        assert_eq!(kernels.iter().map(|k| k.name.as_str()).collect::<Vec<_>>(), ["fine", "spill"]);
        assert_eq!((kernels[0].tile.threads, kernels[0].tile.cluster), (1024, 1));
        assert_eq!(kernels[1].tile.cluster, 2);
        assert_eq!((kernels[0].registers, kernels[0].local_bytes), (Some(10), Some(0)));
        assert_eq!((kernels[1].registers, kernels[1].param_bytes), (Some(64), Some(24)));
    }

    #[test]
    fn a_planted_spill_is_refused_by_name() {
        let kernels = read("planted", PLANTED).unwrap();
        assert!(check("planted", &kernels[0]).is_ok());
        let error = check("planted", &kernels[1]).unwrap_err().to_string();
        assert!(error.contains("kernel spill: 408 bytes of local memory"), "{error}");
    }

    #[test]
    fn an_argument_struct_of_another_size_is_refused() {
        let mut fine = read("planted", PLANTED).unwrap().remove(0);
        fine.tile.args_bytes += 8;
        let error = check("planted", &fine).unwrap_err().to_string();
        assert!(error.contains("24 argument bytes, expected 32"), "{error}");
    }

    #[test]
    fn damaged_objects_are_errors_not_panics() {
        for cut in (0..PLANTED.len()).step_by(97) {
            let _ = read("cut", &PLANTED[..cut]).map(|_| ());
        }
        for at in 0..PLANTED.len().min(4096) {
            let mut image = PLANTED.to_vec();
            image[at] ^= 0xFF;
            let _ = read("flipped", &image).map(|_| ());
        }
        assert!(read("empty", b"").is_err());
    }
}
