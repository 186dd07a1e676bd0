//! A CUDA device: its memory, its stream, its loaded kernels. The emulated device is the same type with
//! another driver library underneath.

use super::{
    capture::{Captured, Freed},
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
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The library of a real driver.
pub const DRIVER_LIBRARY: &str = "libcuda.so.1";

/// Words that kernels count in: zero between launches, because each kernel leaves them so.
pub const COUNTERS: usize = 1 << 14;
const COUNTER_BYTES: usize = COUNTERS * 4;

/// An open device.
pub struct Cuda {
    pub(super) driver: Driver,
    name: String,
    chip: String,
    device: c_int,
    context: Handle,
    pub(super) stream: Handle,
    pub(super) target: Target,
    pub(super) capability: (u32, u32),
    pub(super) shared_bytes: u32,
    total_bytes: usize,
    multiprocessors: u32,
    counters: u64,
    live: Mutex<BTreeMap<u64, Allocation>>,
    most_bytes: AtomicUsize,
    allocations: AtomicU64,
    pub(super) captured: Mutex<Captured>,
    pub(super) kernels: Mutex<Kernels>,
    forced: Mutex<BTreeMap<String, String>>,
    pub(super) watch: Watch,
    #[allow(dead_code)] // without the feature `cust` it is empty
    pub(super) second: Second,
}

/// Device memory in use: its length, and a number that no other allocation has had.
#[derive(Clone, Copy, Debug)]
struct Allocation {
    bytes: usize,
    number: u64,
}

impl std::fmt::Debug for Cuda {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cuda({}, {}, {})", self.name, self.chip, self.target.name())
    }
}

/// Device memory that is freed on drop.
#[derive(Debug)]
pub struct Memory {
    cuda: Arc<Cuda>,
    address: u64,
    bytes: usize,
}

impl Memory {
    /// Where it starts; 256-byte aligned.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// How much it is.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.cuda.live().remove(&self.address);
        self.cuda.free(Freed::Device(self.address)); // kernels may still use it
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

    fn with_driver(
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

    /// The most memory that was allocated at a time so far, bytes.
    pub fn most_bytes(&self) -> usize {
        self.most_bytes.load(Ordering::Relaxed)
    }

    /// `bytes` of memory (at least 1), content undefined.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], or [`Error::Driver`].
    pub fn alloc(self: &Arc<Self>, bytes: usize) -> Result<Memory> {
        self.make_current()?;
        let address = match self.driver.mem_alloc(bytes.max(1)) {
            Ok(address) => address,
            Err(Error::Driver { code: 2, .. }) => {
                let used: usize = self.live().values().map(|a| a.bytes).sum();
                return Err(Error::OutOfMemory {
                    fix: super::cpu::OUT_OF_MEMORY_FIX.into(),
                    need_bytes: bytes as u64,
                    have_bytes: self.total_bytes.saturating_sub(used) as u64,
                    largest: format!("this allocation on {} ({})", self.name, self.chip),
                });
            }
            Err(e) => return Err(e),
        };
        let number = self.allocations.fetch_add(1, Ordering::Relaxed);
        let mut live = self.live();
        live.insert(address, Allocation { bytes: bytes.max(1), number });
        let now = live.values().map(|a| a.bytes).sum();
        drop(live);
        self.most_bytes.fetch_max(now, Ordering::Relaxed);
        Ok(Memory { cuda: self.clone(), address, bytes })
    }

    /// Copies host bytes to `address` and waits.
    ///
    /// # Errors
    /// [`Error::Plan`] when the range lies outside the live allocations; [`Error::Driver`].
    pub fn upload(&self, address: u64, data: &[u8]) -> Result<()> {
        self.inside("upload", address, data.len())?;
        self.make_current()?;
        if data.is_empty() {
            return Ok(());
        }
        self.driver.copy_to_device(address, data, self.stream)
    }

    /// Copies device bytes to the host, after everything launched so far.
    ///
    /// # Errors
    /// As [`Cuda::upload`], and what earlier launches failed with.
    pub fn download(&self, address: u64, data: &mut [u8]) -> Result<()> {
        self.inside("download", address, data.len())?;
        self.make_current()?;
        if data.is_empty() {
            return self.driver.stream_synchronize(self.stream);
        }
        self.driver.copy_to_host(data, address, self.stream)
    }

    /// Copies within the device, in stream order.
    ///
    /// # Errors
    /// As [`Cuda::upload`].
    pub fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        self.inside("copy: target", to, bytes)?;
        self.inside("copy: source", from, bytes)?;
        self.make_current()?;
        if bytes == 0 {
            return Ok(());
        }
        self.driver.copy_on_device(to, from, bytes, self.stream)
    }

    /// Sets every byte to `value`, in stream order: 0xFF makes f32 NaN.
    ///
    /// # Errors
    /// As [`Cuda::upload`].
    pub fn fill(&self, address: u64, bytes: usize, value: u8) -> Result<()> {
        self.inside("fill", address, bytes)?;
        self.make_current()?;
        if bytes == 0 {
            return Ok(());
        }
        self.driver.fill(address, value, bytes, self.stream)
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

    fn live(&self) -> MutexGuard<'_, BTreeMap<u64, Allocation>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses a range that no single allocation holds; an empty range is always inside.
    pub(super) fn inside(&self, at: &str, address: u64, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let live = self.live();
        let holder = live.range(..=address).next_back();
        let left = holder.and_then(|(start, a)| {
            usize::try_from(address - start).ok().and_then(|offset| a.bytes.checked_sub(offset))
        });
        if left.is_some_and(|left| bytes <= left) {
            if let (Some(captured), Some((start, a))) = (&mut *self.captured(), holder) {
                captured.touched.insert((*start, a.number));
            }
            return Ok(());
        }
        Err(Error::Plan {
            at: at.into(),
            problem: format!(
                "{bytes} bytes at {address:#x} lie outside every live allocation of {}; \
                 {} bytes are left there; a buffer is too small or was freed",
                self.name,
                left.unwrap_or(0)
            ),
        })
    }
}

impl Cuda {
    /// Refuses when one of these allocations was freed.
    pub(super) fn still_live(&self, allocations: &[(u64, u64)]) -> Result<()> {
        let live = self.live();
        let gone =
            |(start, number): &&(u64, u64)| live.get(start).is_none_or(|a| a.number != *number);
        match allocations.iter().find(gone) {
            None => Ok(()),
            Some((start, _)) => Err(Error::Plan {
                at: "graph".into(),
                problem: format!(
                    "the memory at {start:#x} that it touches was freed; keep it as long as the graph"
                ),
            }),
        }
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
