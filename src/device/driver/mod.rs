//! The CUDA driver functions this program calls, loaded at run time from one library.
//!
//! The table is our own because the library is a choice: `libcuda.so.1` for `--device cuda`, the emulated
//! driver for `--device emulated`; every line after [`Driver::open`] is the same for both. cudarc's generated
//! bindings supply the constants; its loader knows one library a process and panics on a missing symbol.

mod calls;
mod encoding;
mod graph;
mod launch;
mod none;

pub(super) use encoding::Encoding;
pub use encoding::TensorMap;
pub(super) use launch::Geometry;

use super::emulated::Emulated;
use crate::error::{Error, Result};
use cudarc::driver::sys;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::path::Path;

/// An opaque handle of the driver (context, stream, module, function).
pub(super) type Handle = usize;
type Code = c_uint;

/// The properties that are asked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Attribute {
    Major = sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as isize,
    Minor = sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as isize,
    SharedBytes =
        sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
            as isize,
    Multiprocessors =
        sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT as isize,
}

/// Declares the table and loads each entry by its exported name.
macro_rules! functions {
    ($($field:ident = $symbol:literal: fn($($arg:ty),*);)*) => {
        /// One pointer a driver function; the library outlives them.
        struct Table {
            $($field: unsafe extern "C" fn($($arg),*) -> Code,)*
        }
        impl Table {
            fn load(library: &libloading::Library, name: &str) -> Result<Self> {
                Ok(Self {
                    // SAFETY: the type is that of the driver API's documented function of this name.
                    $($field: *unsafe { library.get($symbol.as_bytes()) }
                        .map_err(|_| no_driver(name, concat!("it exports no ", $symbol)))?,)*
                })
            }

            /// Functions that succeed and do nothing.
            fn idle() -> Self {
                Self {
                    $($field: {
                        unsafe extern "C" fn idle($(_: $arg),*) -> Code { 0 }
                        idle
                    },)*
                }
            }
        }
    };
}

functions! {
    init = "cuInit": fn(c_uint);
    device_count = "cuDeviceGetCount": fn(*mut c_int);
    device = "cuDeviceGet": fn(*mut c_int, c_int);
    device_name = "cuDeviceGetName": fn(*mut c_char, c_int, c_int);
    device_memory = "cuDeviceTotalMem_v2": fn(*mut usize, c_int);
    device_attribute = "cuDeviceGetAttribute": fn(*mut c_int, c_int, c_int);
    retain = "cuDevicePrimaryCtxRetain": fn(*mut Handle, c_int);
    release = "cuDevicePrimaryCtxRelease_v2": fn(c_int);
    set_current = "cuCtxSetCurrent": fn(Handle);
    error_name = "cuGetErrorName": fn(Code, *mut *const c_char);
    stream_create = "cuStreamCreate": fn(*mut Handle, c_uint);
    stream_destroy = "cuStreamDestroy_v2": fn(Handle);
    stream_synchronize = "cuStreamSynchronize": fn(Handle);
    mem_alloc = "cuMemAlloc_v2": fn(*mut u64, usize);
    mem_free = "cuMemFree_v2": fn(u64);
    to_device = "cuMemcpyHtoDAsync_v2": fn(u64, *const c_void, usize, Handle);
    to_host = "cuMemcpyDtoHAsync_v2": fn(*mut c_void, u64, usize, Handle);
    on_device = "cuMemcpyDtoDAsync_v2": fn(u64, u64, usize, Handle);
    fill = "cuMemsetD8Async": fn(u64, u8, usize, Handle);
    module_load = "cuModuleLoadData": fn(*mut Handle, *const c_void);
    module_unload = "cuModuleUnload": fn(Handle);
    function = "cuModuleGetFunction": fn(*mut Handle, Handle, *const c_char);
    function_set = "cuFuncSetAttribute": fn(Handle, c_int, c_int);
    launch = "cuLaunchKernel": fn(Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut *mut c_void, *mut *mut c_void);
    launch_ex = "cuLaunchKernelEx": fn(*const sys::CUlaunchConfig, Handle, *mut *mut c_void, *mut *mut c_void);
    tensor_map = "cuTensorMapEncodeTiled": fn(*mut TensorMap, c_uint, u32, u64, *const u64, *const u64, *const u32, *const u32, c_uint, c_uint, c_uint, c_uint);
    function_get = "cuFuncGetAttribute": fn(*mut c_int, c_int, Handle);
    occupancy = "cuOccupancyMaxActiveBlocksPerMultiprocessor": fn(*mut c_int, Handle, c_int, usize);
    max_clusters = "cuOccupancyMaxActiveClusters": fn(*mut c_int, Handle, *const sys::CUlaunchConfig);
    capture_begin = "cuStreamBeginCapture_v2": fn(Handle, c_uint);
    capture_end = "cuStreamEndCapture": fn(Handle, *mut Handle);
    graph_instantiate = "cuGraphInstantiateWithFlags": fn(*mut Handle, Handle, u64);
    graph_launch = "cuGraphLaunch": fn(Handle, Handle);
    graph_exec_destroy = "cuGraphExecDestroy": fn(Handle);
    graph_destroy = "cuGraphDestroy": fn(Handle);
    event_create = "cuEventCreate": fn(*mut Handle, c_uint);
    event_record = "cuEventRecord": fn(Handle, Handle);
    event_synchronize = "cuEventSynchronize": fn(Handle);
    event_elapsed = "cuEventElapsedTime_v2": fn(*mut f32, Handle, Handle);
    event_destroy = "cuEventDestroy_v2": fn(Handle);
    memory_info = "cuMemGetInfo_v2": fn(*mut usize, *mut usize);
    host_alloc = "cuMemHostAlloc": fn(*mut *mut c_void, usize, c_uint);
    host_free = "cuMemFreeHost": fn(*mut c_void);
}

/// An open driver library.
pub(super) struct Driver {
    table: Table,
    #[cfg_attr(not(feature = "cust"), expect(dead_code))] // it outlives the table
    library: Option<libloading::Library>,
}

/// The least CUDA version of a driver: its objects' ABI and PTX 9.0, as `cuDriverGetVersion` counts.
const NEEDED_VERSION: c_int = 13_000;
const NEEDED: &str = "CUDA 13.0 (driver R580 or newer)";

fn no_driver(library: &str, problem: &str) -> Error {
    Error::NoDriver { library: library.into(), problem: problem.into() }
}

fn open_library(library: &Path, name: &str) -> Result<libloading::Library> {
    // SAFETY: libcuda.so.1 and the emulated driver have no initialisers that depend on our state.
    let opened = unsafe { libloading::Library::new(library) };
    opened.map_err(|e| no_driver(name, &format!("cannot be opened ({e})")))
}

/// Refuses a driver older than [`NEEDED_VERSION`].
fn check_version(library: &libloading::Library, name: &str) -> Result<()> {
    type Version = unsafe extern "C" fn(*mut c_int) -> Code;
    let mut version = 0;
    // SAFETY: the type is that of the driver API's documented function of this name; it writes one int and may be
    // called before cuInit.
    let code = unsafe {
        let ask = library.get::<Version>(b"cuDriverGetVersion");
        ask.map_err(|_| no_driver(name, "it exports no cuDriverGetVersion"))?(&mut version)
    };
    if code == 0 && version >= NEEDED_VERSION {
        return Ok(());
    }
    let found = format!("{}.{}", version / 1000, version % 1000 / 10);
    Err(Error::OldDriver { library: name.into(), found, needed: NEEDED })
}

impl Driver {
    /// Opens a library and initialises it.
    ///
    /// # Errors
    /// [`Error::NoDriver`] when it is missing or incomplete, [`Error::OldDriver`] when it is too old,
    /// [`Error::Driver`] when it finds no device.
    pub fn open(library: &Path) -> Result<Self> {
        let name = library.display().to_string();
        Self::start(open_library(library, &name)?, &name)
    }

    /// Opens the emulated driver as the one of such a machine.
    ///
    /// # Errors
    /// As [`Driver::open`].
    pub fn open_emulated(library: &Path, e: &Emulated) -> Result<Self> {
        type Schedule = unsafe extern "C" fn(c_int, u64) -> Code;
        type Device = unsafe extern "C" fn(c_int, c_int) -> Code;
        type Memory = unsafe extern "C" fn(c_int) -> Code;
        let name = library.display().to_string();
        let library = open_library(library, &name)?;
        let other = |_| no_driver(&name, "it is not the emulated one");
        let (mode, seed) = e.schedule.mode();
        let clusters = c_int::try_from(e.resident_clusters).unwrap_or(c_int::MAX);
        // SAFETY: the emulated driver exports the functions with these types; they take plain numbers.
        unsafe {
            library.get::<Schedule>(b"emulatorSchedule").map_err(other)?(mode, seed);
            library.get::<Device>(b"emulatorDevice").map_err(other)?(e.driver_version, clusters);
            library.get::<Memory>(b"emulatorMemory").map_err(other)?(c_int::from(e.poisoned));
        }
        Self::start(library, &name)
    }

    fn start(library: libloading::Library, name: &str) -> Result<Self> {
        check_version(&library, name)?; // an old library lacks functions of the table
        let driver = Self { table: Table::load(&library, name)?, library: Some(library) };
        // SAFETY: plain call without pointers.
        driver.ok("cuInit", unsafe { (driver.table.init)(0) })?;
        Ok(driver)
    }

    /// The address of an exported function, for another caller of the same library.
    #[cfg(feature = "cust")]
    pub fn symbol(&self, name: &str) -> Option<usize> {
        let library = self.library.as_ref()?;
        // SAFETY: only the address is taken; cust declares the documented type of every function it calls.
        let found = unsafe { library.get::<*const c_void>(name.as_bytes()) };
        found.ok().map(|symbol| *symbol as usize)
    }

    fn ok(&self, call: &str, code: Code) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        let mut name: *const c_char = std::ptr::null();
        // SAFETY: the driver writes a pointer to a string of its own, or leaves null.
        unsafe { (self.table.error_name)(code, &mut name) };
        let name = if name.is_null() {
            "unknown".into()
        } else {
            // SAFETY: not null, and NUL-terminated by the driver's contract.
            unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
        };
        Err(Error::Driver { call: call.into(), code, name })
    }
}
