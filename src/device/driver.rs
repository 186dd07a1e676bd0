//! The CUDA driver functions this program calls, loaded at run time from one library.
//!
//! The table is our own because the library is a choice: `libcuda.so.1` for `--device cuda`, the emulated
//! driver for `--device emulated`; every line after [`Driver::open`] is the same for both. cudarc's generated
//! bindings supply the constants; its loader knows one library a process and panics on a missing symbol.

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
}
const MAX_DYNAMIC_SHARED: c_int =
    sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as c_int;
const STREAM_NON_BLOCKING: c_uint = sys::CUstream_flags_enum::CU_STREAM_NON_BLOCKING as c_uint;

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
}

/// An open driver library.
pub(super) struct Driver {
    table: Table,
    library: libloading::Library,
}

fn no_driver(library: &str, problem: &str) -> Error {
    Error::NoDriver { library: library.into(), problem: problem.into() }
}

impl Driver {
    /// Opens a library and initialises it.
    ///
    /// # Errors
    /// [`Error::NoDriver`] when it is missing or incomplete, [`Error::Driver`] when it finds no device.
    pub fn open(library: &Path) -> Result<Self> {
        let name = library.display().to_string();
        // SAFETY: libcuda.so.1 and the emulated driver have no initialisers that depend on our state.
        let opened = unsafe { libloading::Library::new(library) };
        let library = opened.map_err(|e| no_driver(&name, &format!("cannot be opened ({e})")))?;
        let driver = Self { table: Table::load(&library, &name)?, library };
        // SAFETY: plain call without pointers.
        driver.ok("cuInit", unsafe { (driver.table.init)(0) })?;
        Ok(driver)
    }

    /// Chooses the emulator's schedule; an error for a real driver.
    pub fn set_schedule(&self, mode: c_int, seed: u64) -> Result<()> {
        type Set = unsafe extern "C" fn(c_int, u64) -> Code;
        // SAFETY: the emulated driver exports the function with this type.
        let set = unsafe { self.library.get::<Set>(b"emulatorSchedule") };
        let set = set.map_err(|_| no_driver("the driver", "it is not the emulated one"))?;
        // SAFETY: plain call without pointers.
        self.ok("emulatorSchedule", unsafe { set(mode, seed) })
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

    /// The device number `ordinal` of those present.
    pub fn device(&self, ordinal: u32) -> Result<c_int> {
        let (mut count, mut device) = (0, 0);
        // SAFETY: writes one int.
        self.ok("cuDeviceGetCount", unsafe { (self.table.device_count)(&mut count) })?;
        let index = c_int::try_from(ordinal).ok().filter(|i| *i < count);
        let index = index.ok_or_else(|| Error::Config {
            key: "--device".into(),
            found: format!("cuda:{ordinal}"),
            expected: format!("a number below {count}, the devices present"),
            fix: "use another number or --device cpu".into(),
        })?;
        // SAFETY: writes one int.
        self.ok("cuDeviceGet", unsafe { (self.table.device)(&mut device, index) })?;
        Ok(device)
    }

    pub fn device_name(&self, device: c_int) -> Result<String> {
        let mut text = [0 as c_char; 128];
        // SAFETY: writes at most 128 bytes, NUL included.
        let code = unsafe { (self.table.device_name)(text.as_mut_ptr(), 128, device) };
        self.ok("cuDeviceGetName", code)?;
        text[127] = 0;
        // SAFETY: the last byte is NUL.
        Ok(unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy().into_owned())
    }

    pub fn device_memory(&self, device: c_int) -> Result<usize> {
        let mut bytes = 0;
        // SAFETY: writes one size.
        self.ok("cuDeviceTotalMem", unsafe { (self.table.device_memory)(&mut bytes, device) })?;
        Ok(bytes)
    }

    pub fn attribute(&self, which: Attribute, device: c_int) -> Result<u32> {
        let mut value = 0;
        // SAFETY: writes one int.
        let code = unsafe { (self.table.device_attribute)(&mut value, which as c_int, device) };
        self.ok("cuDeviceGetAttribute", code)?;
        Ok(u32::try_from(value).unwrap_or(0))
    }

    pub fn retain(&self, device: c_int) -> Result<Handle> {
        let mut context = 0;
        // SAFETY: writes one handle.
        self.ok("cuDevicePrimaryCtxRetain", unsafe { (self.table.retain)(&mut context, device) })?;
        Ok(context)
    }

    pub fn release(&self, device: c_int) {
        // SAFETY: one release for the one retain; a failure at the end has nobody to tell.
        unsafe { (self.table.release)(device) };
    }

    /// Makes `context` current for the calling thread; every other call needs that.
    pub fn set_current(&self, context: Handle) -> Result<()> {
        // SAFETY: `context` came from `retain` and is not yet released.
        self.ok("cuCtxSetCurrent", unsafe { (self.table.set_current)(context) })
    }

    pub fn stream_create(&self) -> Result<Handle> {
        let mut stream = 0;
        // SAFETY: writes one handle.
        let code = unsafe { (self.table.stream_create)(&mut stream, STREAM_NON_BLOCKING) };
        self.ok("cuStreamCreate", code)?;
        Ok(stream)
    }

    pub fn stream_destroy(&self, stream: Handle) {
        // SAFETY: created by `stream_create`, destroyed once.
        unsafe { (self.table.stream_destroy)(stream) };
    }

    pub fn stream_synchronize(&self, stream: Handle) -> Result<()> {
        // SAFETY: a live stream.
        self.ok("cuStreamSynchronize", unsafe { (self.table.stream_synchronize)(stream) })
    }

    pub fn mem_alloc(&self, bytes: usize) -> Result<u64> {
        let mut address = 0;
        // SAFETY: writes one address.
        self.ok("cuMemAlloc", unsafe { (self.table.mem_alloc)(&mut address, bytes) })?;
        Ok(address)
    }

    pub fn mem_free(&self, address: u64) {
        // SAFETY: from `mem_alloc`, freed once by its owner's drop.
        unsafe { (self.table.mem_free)(address) };
    }

    /// Copies and waits: the host slice is free again afterwards. The caller has checked the device range.
    pub fn copy_to_device(&self, to: u64, from: &[u8], stream: Handle) -> Result<()> {
        // SAFETY: the slice is valid until the synchronisation below; the device range is inside an allocation.
        let code = unsafe { (self.table.to_device)(to, from.as_ptr().cast(), from.len(), stream) };
        self.ok("cuMemcpyHtoDAsync", code)?;
        self.stream_synchronize(stream)
    }

    /// As [`Driver::copy_to_device`], the other way.
    pub fn copy_to_host(&self, to: &mut [u8], from: u64, stream: Handle) -> Result<()> {
        // SAFETY: the slice is valid and exclusive until the synchronisation below.
        let code = unsafe { (self.table.to_host)(to.as_mut_ptr().cast(), from, to.len(), stream) };
        self.ok("cuMemcpyDtoHAsync", code)?;
        self.stream_synchronize(stream)
    }

    pub fn copy_on_device(&self, to: u64, from: u64, bytes: usize, stream: Handle) -> Result<()> {
        // SAFETY: the caller has checked both ranges.
        self.ok("cuMemcpyDtoDAsync", unsafe { (self.table.on_device)(to, from, bytes, stream) })
    }

    pub fn fill(&self, to: u64, value: u8, bytes: usize, stream: Handle) -> Result<()> {
        // SAFETY: the caller has checked the range.
        self.ok("cuMemsetD8Async", unsafe { (self.table.fill)(to, value, bytes, stream) })
    }

    /// `image` must end in a NUL when it is PTX text.
    pub fn module_load(&self, image: &[u8]) -> Result<Handle> {
        let mut module = 0;
        // SAFETY: the driver reads a complete image, whose own header gives its length.
        let code = unsafe { (self.table.module_load)(&mut module, image.as_ptr().cast()) };
        self.ok("cuModuleLoadData", code)?;
        Ok(module)
    }

    pub fn module_unload(&self, module: Handle) {
        // SAFETY: loaded once, unloaded once; its functions are dropped with the device.
        unsafe { (self.table.module_unload)(module) };
    }

    pub fn function(&self, module: Handle, name: &CStr) -> Result<Handle> {
        let mut function = 0;
        // SAFETY: a live module and a NUL-terminated name; writes one handle.
        let code = unsafe { (self.table.function)(&mut function, module, name.as_ptr()) };
        self.ok("cuModuleGetFunction", code)?;
        Ok(function)
    }

    /// Allows a function more dynamic shared memory than 48 KiB.
    pub fn allow_shared(&self, function: Handle, bytes: u32) -> Result<()> {
        let bytes = c_int::try_from(bytes).unwrap_or(c_int::MAX);
        // SAFETY: a live function.
        let code = unsafe { (self.table.function_set)(function, MAX_DYNAMIC_SHARED, bytes) };
        self.ok("cuFuncSetAttribute", code)
    }

    /// Launches with one argument struct. The caller has compared its size with the kernel's own and
    /// checked that every address in it belongs to a live allocation.
    pub fn launch(
        &self,
        function: Handle,
        (grid, threads, shared_bytes): ([u32; 3], u32, u32),
        stream: Handle,
        args: &[u8],
    ) -> Result<()> {
        let mut list = [args.as_ptr().cast_mut().cast::<c_void>()];
        let [x, y, z] = grid;
        // SAFETY: the driver copies the arguments before it returns and does not write them.
        let code = unsafe {
            (self.table.launch)(
                function,
                x,
                y,
                z,
                threads,
                1,
                1,
                shared_bytes,
                stream,
                list.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        self.ok("cuLaunchKernel", code)
    }
}
