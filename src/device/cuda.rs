//! A CUDA device: its memory, its stream, its loaded kernels. The emulated device is the same type with
//! another driver library underneath.

use super::{
    capture::Captured,
    cubin_table::{EMULATED_DRIVER, Target},
    driver::{Attribute, Driver, Handle},
    emulated::{Emulated, Schedule},
    loaded::Kernels,
    second::Second,
    temporary::TemporaryLibrary,
    watch::Watch,
};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::ffi::c_int;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The library of a real driver.
pub const DRIVER_LIBRARY: &str = "libcuda.so.1";

/// Words that kernels count in: zero between launches, because each kernel leaves them so.
pub const COUNTERS: usize = 1 << 14;
const COUNTER_BYTES: usize = COUNTERS * 4;

/// An open device.
pub struct Cuda {
    pub(super) driver: Driver,
    pub(super) name: String,
    pub(super) chip: String,
    device: c_int,
    context: Handle,
    pub(super) stream: Handle,
    pub(super) target: Target,
    pub(super) capability: (u32, u32),
    pub(super) shared_bytes: u32,
    pub(super) total_bytes: usize,
    pub(super) multiprocessors: u32,
    counters: u64,
    live: Mutex<BTreeMap<u64, Allocation>>,
    pub(super) most_bytes: AtomicUsize,
    pub(super) allocations: AtomicU64,
    pub(super) captured: Mutex<Captured>,
    pub(super) kernels: Mutex<Kernels>,
    forced: Mutex<BTreeMap<String, String>>,
    programmatic: AtomicBool,
    pub(super) watch: Watch,
    #[allow(dead_code)] // without the feature `cust` it is empty
    pub(super) second: Second,
}

/// Device memory in use: its length, and a number that no other allocation has had.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allocation {
    pub bytes: usize,
    pub number: u64,
}

impl std::fmt::Debug for Cuda {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cuda({}, {}, {})", self.name, self.chip, self.target.name())
    }
}

impl Cuda {
    /// Opens device `ordinal` of the NVIDIA driver.
    ///
    /// # Errors
    /// [`Error::NoDriver`] without a driver library, [`Error::OldDriver`] before CUDA 13,
    /// [`Error::Config`] for a number that is not there, [`Error::NoKernel`] for a chip before compute capability 8.0.
    pub fn open(ordinal: u32) -> Result<Arc<Self>> {
        let driver = Driver::open(Path::new(DRIVER_LIBRARY))?;
        Self::with_driver(driver, ordinal, format!("cuda:{ordinal}"), None).map(Arc::new)
    }

    /// Opens the emulated driver; each call makes a device of its own.
    ///
    /// # Errors
    /// [`Error::Config`] in a build without the feature `emulate`; [`Error::File`] when the temporary
    /// folder takes no library.
    pub fn emulated(schedule: Schedule) -> Result<Arc<Self>> {
        Self::emulator(&Emulated { schedule, ..Emulated::default() }).map(Arc::new)
    }

    /// As [`Cuda::emulated`], as if on another machine.
    ///
    /// # Errors
    /// Also [`Error::OldDriver`].
    pub fn emulated_as(machine: &Emulated) -> Result<Arc<Self>> {
        Self::emulator(machine).map(Arc::new)
    }

    pub(super) fn emulator(machine: &Emulated) -> Result<Self> {
        let image = EMULATED_DRIVER.ok_or_else(|| Error::Config {
            key: "--device".into(),
            found: "emulated".into(),
            expected: "cpu or cuda[:N] in this build".into(),
            fix: "build with --features emulate".into(),
        })?;
        let file = TemporaryLibrary::write(image)?;
        let driver = Driver::open_emulated(&file.path, machine)?;
        Self::with_driver(driver, 0, "emulated".into(), Some(Target::Host))
    }

    pub(super) fn with_driver(
        driver: Driver,
        ordinal: u32,
        name: String,
        target: Option<Target>,
    ) -> Result<Self> {
        let device = driver.device(ordinal)?;
        let (major, minor) = (
            driver.attribute(Attribute::Major, device)?,
            driver.attribute(Attribute::Minor, device)?,
        );
        let chip = driver.device_name(device)?;
        let target = target.or(Target::of_chip(major, minor)).ok_or_else(|| Error::NoKernel {
            op: "every operation",
            key: format!("{chip}, compute capability {major}.{minor}"),
            tried: "sm_80, sm_90a and PTX for later chips".into(),
        })?;
        let (shared_bytes, total_bytes) =
            (driver.attribute(Attribute::SharedBytes, device)?, driver.device_memory(device)?);
        let multiprocessors = driver.attribute(Attribute::Multiprocessors, device)?.max(1);
        let context = driver.retain(device)?;
        let stream = driver.set_current(context).and_then(|()| driver.stream_create());
        let started = stream.and_then(|stream| {
            let counters = driver.mem_alloc(COUNTER_BYTES)?;
            driver.fill(counters, 0, COUNTER_BYTES, stream)?;
            Ok((stream, counters))
        });
        let (stream, counters) = match started {
            Ok(started) => started,
            Err(e) => {
                driver.release(device); // the context, and with it what was made in it
                return Err(e);
            }
        };
        let allocation = Allocation { bytes: COUNTER_BYTES, number: 0 };
        Ok(Self {
            driver,
            name,
            chip,
            device,
            context,
            stream,
            target,
            capability: (major, minor),
            shared_bytes,
            total_bytes,
            multiprocessors,
            counters,
            live: Mutex::new(BTreeMap::from([(counters, allocation)])),
            most_bytes: AtomicUsize::new(COUNTER_BYTES),
            allocations: AtomicU64::new(1),
            captured: Mutex::default(),
            kernels: Mutex::default(),
            forced: Mutex::default(),
            programmatic: AtomicBool::new(false),
            watch: Watch::default(),
            #[allow(clippy::default_constructed_unit_structs)] // it has fields with the feature cust
            second: Second::default(),
        })
    }

    /// `cuda:0` or `emulated`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The chip's own name.
    pub fn chip(&self) -> &str {
        &self.chip
    }

    /// What its kernels were compiled for.
    pub fn target(&self) -> Target {
        self.target
    }

    /// Lets every kernel from now on start while the one before it runs, whose end it waits for (programmatic dependent
    /// launch).
    ///
    /// # Errors
    /// [`Error::Config`] on a chip before compute capability 9.0, or one that has no objects of this program.
    pub fn start_early(&self) -> Result<()> {
        if !matches!(self.target, Target::Sm90a | Target::Host) {
            return Err(Error::Config {
                key: "--programmatic".into(),
                found: format!("{} with kernels for {}", self.chip, self.target.name()),
                expected: "a Hopper chip (compute capability 9.0), or emulated".into(),
                fix: "leave it out".into(),
            });
        }
        self.programmatic.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Whether kernels start early.
    pub fn is_programmatic(&self) -> bool {
        self.programmatic.load(Ordering::Relaxed)
    }

    /// Asks for variant `name` of `slot` (`attention.forward`, or `attention` for all its passes) wherever it
    /// applies; checked when a kernel is chosen.
    pub fn force_variant(&self, slot: &str, name: &str) {
        let mut forced = self.forced.lock().unwrap_or_else(PoisonError::into_inner);
        forced.insert(slot.into(), name.into());
    }

    /// The variant asked for in `slot`.
    pub fn forced_variant(&self, slot: &str) -> Option<String> {
        let forced = self.forced.lock().unwrap_or_else(PoisonError::into_inner);
        let op = slot.split('.').next().unwrap_or(slot);
        forced.get(slot).or_else(|| forced.get(op)).cloned()
    }

    /// Whether a variant was asked for in `slot` itself, not in its whole operation.
    pub fn forces_exactly(&self, slot: &str) -> bool {
        self.forced.lock().unwrap_or_else(PoisonError::into_inner).contains_key(slot)
    }

    /// Its multiprocessors: as many blocks as a persistent grid has, or a multiple.
    pub fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    /// Where the first of [`COUNTERS`] words lies: zero at every launch, and every kernel leaves them so.
    pub fn counters(&self) -> u64 {
        self.counters
    }

    /// A launch that failed may have left its counters in the middle.
    pub(super) fn after_launch(&self, launched: Result<()>) -> Result<()> {
        if launched.is_err() && self.captured().is_none() {
            let _ = self.driver.fill(self.counters, 0, COUNTER_BYTES, self.stream);
        }
        launched
    }

    /// Dynamic shared memory that a block may have, bytes.
    pub fn shared_bytes(&self) -> u32 {
        self.shared_bytes
    }

    /// Free and total bytes of its memory.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn mem_info(&self) -> Result<(usize, usize)> {
        self.make_current()?;
        self.driver.memory_info()
    }

    /// Waits until the stream is empty.
    ///
    /// # Errors
    /// What earlier launches failed with.
    pub fn synchronize(&self) -> Result<()> {
        self.make_current()?;
        self.driver.stream_synchronize(self.stream)
    }

    pub(super) fn make_current(&self) -> Result<()> {
        self.driver.set_current(self.context)
    }

    pub(super) fn live(&self) -> MutexGuard<'_, BTreeMap<u64, Allocation>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        if self.make_current().is_err() {
            return;
        }
        let kernels = self.kernels.get_mut().unwrap_or_else(PoisonError::into_inner);
        for module in kernels.modules() {
            self.driver.module_unload(module);
        }
        self.driver.mem_free(self.counters);
        self.driver.stream_destroy(self.stream);
        self.driver.release(self.device);
    }
}
