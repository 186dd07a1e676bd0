//! What the chips can do, one TOML file each: the built-in ones in `chips/`, or a researcher's own.

use crate::{
    device::{Engine, StandIn},
    error::{Error, Result},
    op::Cost,
    tensor::DType,
};
use serde::Deserialize;
use std::path::Path;

/// The built-in files by name; the first whose `driver_name` is part of the driver's name for a chip counts.
const BUILT_IN: [(&str, &str); 7] = [
    ("gh200", include_str!("chips/gh200.toml")),
    ("h200", include_str!("chips/h200.toml")),
    ("h100", include_str!("chips/h100.toml")),
    ("a100", include_str!("chips/a100.toml")),
    ("a800", include_str!("chips/a800.toml")),
    ("rtx4090", include_str!("chips/rtx4090.toml")),
    ("l40s", include_str!("chips/l40s.toml")),
];

/// A chip as its file has it; every key is explained there.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    driver_name: String,
    capability: String,
    multiprocessors: u32,
    shared_kib: u32,
    clock_mhz: f64,
    ordinary_tflops: f64,
    matrix_tflops: f64,
    mma_share: f64,
    memory_gbps: f64,
    l2_mb: f64,
    l2_bytes_per_clock: f64,
    start_us: f64,
    sustained: Sustained,
}

/// Shares of the rates that long kernels reach.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sustained {
    arithmetic: f64,
    memory: f64,
    l2: f64,
}

/// A chip.
#[derive(Clone, Debug, PartialEq)]
pub struct Chip {
    file: File,
    capability: (u32, u32),
}

/// Rates that long kernels reach, in a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Bytes of memory.
    pub memory: f64,
    /// Bytes through the second-level cache.
    pub l2: f64,
}

impl Chip {
    /// The chip of a `--chip` word: a built-in name, or a file.
    ///
    /// # Errors
    /// [`Error::Config`] for another name, [`Error::File`] and [`Error::Format`] for a file that is not one of these.
    pub fn parse(word: &str) -> Result<Self> {
        let path = Path::new(word);
        if path.extension().is_some_and(|x| x == "toml") {
            let text = std::fs::read_to_string(path).map_err(Error::file("read", path))?;
            return Self::read(path, &text);
        }
        match BUILT_IN.iter().find(|(name, _)| *name == word) {
            Some((_, text)) => Self::read(path, text),
            None => Err(Error::Config {
                key: "--chip".into(),
                found: word.into(),
                expected: format!("{}, or FILE.toml", BUILT_IN.map(|(name, _)| name).join(", ")),
                fix: "start your own from one of src/cli/chips/*.toml".into(),
            }),
        }
    }

    fn read(path: &Path, text: &str) -> Result<Self> {
        let bad = |found: String, expected: &str| Error::Format {
            path: path.into(),
            found,
            expected: expected.into(),
            fix: "see src/cli/chips/h200.toml, which explains every key".into(),
        };
        let line = |at: usize| text[..at.min(text.len())].lines().count().max(1);
        let file: File = toml::from_str(text).map_err(|e| {
            let at = e.span().map_or(String::new(), |s| format!(" (line {})", line(s.start)));
            let words: Vec<&str> = e.message().split_whitespace().collect();
            bad(format!("{}{at}", words.join(" ")), "the keys of a chip")
        })?;
        let (f, s) = (&file, &file.sustained);
        let numbers = [
            ("multiprocessors", f64::from(f.multiprocessors), f64::MAX),
            ("shared_kib", f64::from(f.shared_kib), 1e6),
            ("clock_mhz", f.clock_mhz, f64::MAX),
            ("ordinary_tflops", f.ordinary_tflops, f64::MAX),
            ("matrix_tflops", f.matrix_tflops, f64::MAX),
            ("mma_share", f.mma_share, 1.0),
            ("memory_gbps", f.memory_gbps, f64::MAX),
            ("l2_mb", f.l2_mb, f64::MAX),
            ("l2_bytes_per_clock", f.l2_bytes_per_clock, f64::MAX),
            ("start_us", f.start_us, f64::MAX),
            ("sustained.arithmetic", s.arithmetic, 1.0),
            ("sustained.memory", s.memory, 1.0),
            ("sustained.l2", s.l2, 1.0),
        ];
        for (key, value, most) in numbers {
            let zero = key == "start_us" && value == 0.0;
            if !(value.is_finite() && (value > 0.0 || zero) && value <= most) {
                let expected = match most {
                    1.0 => "a share above 0, at most 1",
                    _ => "a finite number above 0",
                };
                return Err(bad(format!("{key} = {value}"), expected));
            }
        }
        let parts = f.capability.split_once('.');
        let capability = parts.and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        let capability = capability.ok_or_else(|| {
            bad(format!("capability = \"{}\"", f.capability), "major.minor, such as \"9.0\"")
        })?;
        Ok(Self { file, capability })
    }

    /// The chip that the driver calls this, if it is known.
    pub fn of(driver_name: &str) -> Option<Self> {
        let all = BUILT_IN.iter().filter_map(|(name, _)| Self::parse(name).ok());
        all.into_iter().find(|chip| chip.is(driver_name))
    }

    /// What the emulated device is measured against: the chip the kernels are made for.
    pub fn h200() -> Option<Self> {
        Self::parse("h200").ok()
    }

    /// Whether the driver may call it this.
    pub fn is(&self, driver_name: &str) -> bool {
        driver_name.contains(&self.file.driver_name)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.file.name
    }

    /// A device in its place.
    pub fn stand_in(&self) -> StandIn {
        StandIn {
            name: self.file.name.clone(),
            capability: self.capability,
            multiprocessors: self.file.multiprocessors,
            shared_bytes: self.file.shared_kib.saturating_sub(1) << 10,
        }
    }

    /// Multiprocessors.
    pub fn multiprocessors(&self) -> f64 {
        f64::from(self.file.multiprocessors)
    }

    /// Size of the second-level cache, bytes.
    pub fn l2_bytes(&self) -> f64 {
        self.file.l2_mb * 1e6
    }

    /// Time of a node's start, microseconds.
    pub fn start_us(&self) -> f64 {
        self.file.start_us
    }

    /// Bytes a second of memory, by the data sheet.
    pub fn bytes(&self) -> f64 {
        self.file.memory_gbps * 1e9
    }

    /// FLOP/s in an element type, by the data sheet.
    pub fn flop(&self, dtype: DType) -> f64 {
        match dtype {
            DType::F32 | DType::I32 => self.file.ordinary_tflops * 1e12,
            DType::Bf16 | DType::F16 => self.file.matrix_tflops * 1e12,
        }
    }

    /// FLOP/s that long kernels of an engine reach.
    pub fn sustained_flop(&self, engine: Engine) -> f64 {
        let peak = match engine {
            Engine::Ordinary => self.file.ordinary_tflops,
            Engine::Mma => self.file.matrix_tflops * self.file.mma_share,
            Engine::Wgmma => self.file.matrix_tflops,
        };
        peak * 1e12 * self.file.sustained.arithmetic
    }

    /// Bytes a second that long kernels reach.
    pub fn sustained(&self) -> Rates {
        let (f, s) = (&self.file, &self.file.sustained);
        Rates {
            memory: self.bytes() * s.memory,
            l2: f.l2_bytes_per_clock * f.clock_mhz * 1e6 * s.l2,
        }
    }

    /// The least time of some work in ms, by the data sheet.
    pub fn floor_ms(&self, cost: Cost, dtype: DType) -> f64 {
        (cost.flop / self.flop(dtype)).max(cost.bytes / self.bytes()) * 1e3
    }

    /// The least time of some work in microseconds at the rates that long kernels reach.
    pub fn sustained_floor_us(&self, cost: Cost, dtype: DType) -> f64 {
        let arithmetic = cost.flop / self.flop(dtype) / self.file.sustained.arithmetic;
        arithmetic.max(cost.bytes / self.sustained().memory) * 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_is_the_slower_of_arithmetic_and_memory() {
        let chip = Chip::h200().unwrap();
        let arithmetic = Cost { flop: 989.5e9, bytes: 1.0 };
        assert!((chip.floor_ms(arithmetic, DType::Bf16) - 1.0).abs() < 1e-9);
        let memory = Cost { flop: 1.0, bytes: 4.8e9 };
        assert!((chip.floor_ms(memory, DType::Bf16) - 1.0).abs() < 1e-9);
        assert!((chip.sustained_floor_us(memory, DType::Bf16) - 1e3 / 0.9).abs() < 1e-6);
        assert_eq!(Chip::of("NVIDIA H200"), Some(chip));
        assert_eq!(Chip::of("CPU emulator"), None);
    }

    #[test]
    fn every_built_in_file_is_read_and_found_by_the_drivers_name() {
        for (name, text) in BUILT_IN {
            let chip = Chip::parse(name).unwrap();
            assert_eq!(Chip::of(&format!("{} 96GB", chip.name())), Some(chip), "{name}");
            let sourced = text.lines().filter(|l| l.starts_with('#')).count();
            let keys = text.lines().filter(|l| l.contains(" = ")).count();
            assert!(sourced + 3 >= keys, "{name}: a number without its source");
        }
        let bytes = |name: &str| Chip::of(name).map(|c| c.bytes());
        assert!(bytes("NVIDIA A100-SXM4-80GB") < bytes("NVIDIA H100 80GB HBM3"));
        assert!(bytes("NVIDIA GH200 480GB") < bytes("NVIDIA H200"));
        // what a block may ask for: a KiB of every multiprocessor's is the driver's
        let shared = |name: &str| Chip::parse(name).unwrap().stand_in().shared_bytes >> 10;
        assert_eq!(["h200", "a100", "rtx4090"].map(shared), [227, 163, 99]);
    }

    #[test]
    fn a_file_that_is_no_chip_is_refused_in_one_line_with_the_key() {
        let (_, good) = BUILT_IN[1];
        let read = |text: &str| Chip::read(Path::new("my.toml"), text);
        let refused = |from: &str, to: &str, word: &str| {
            assert!(good.contains(from), "{from}");
            let error = read(&good.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(word) && error.lines().count() == 1, "{error}");
        };
        read(good).unwrap();
        refused("clock_mhz = 1830", "", "clock_mhz");
        refused("clock_mhz = 1830", "clock_mhz = 1830\nclock = 1", "unknown field `clock`");
        refused("memory_gbps = 4800.0", "memory_gbps = -1.0", "memory_gbps = -1");
        refused("memory_gbps = 4800.0", "memory_gbps = nan", "memory_gbps = NaN");
        refused("l2_mb = 50.0", "l2_mb = inf", "l2_mb");
        refused("memory = 0.9", "memory = 1.5", "sustained.memory");
        refused("multiprocessors = 132", "multiprocessors = 0", "multiprocessors");
        refused("capability = \"9.0\"", "capability = \"nine\"", "capability");
        refused("start_us = 2.0", "start_us = ", "line");
    }
}
