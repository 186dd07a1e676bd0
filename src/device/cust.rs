//! The optional second launcher: the same objects loaded and launched through `cust`, to compare what a launch
//! costs.
//!
//! cust links `libcuda`; `build.rs` gives it a table of jumps in its place, which [`Cuda::open_cust`] fills from
//! the library that the device has opened, a driver or the emulated one. So the program starts without a driver
//! and both launchers talk to the same one. cust 0.3.2 knows CUDA 11.4: it has no launch in clusters.

use super::{cubin_table::Target, cuda::Cuda, driver::Geometry, second::Cust};
use crate::error::{Error, Result};
use cust::{
    context::Context,
    device::Device,
    function::Function,
    module::Module,
    stream::{Stream, StreamFlags},
};
use std::{
    ffi::c_int,
    sync::{Mutex, PoisonError},
};

/// Every driver function that cust can call, one a line, in the order of the table.
const FUNCTIONS: &str = include_str!("cust_functions.txt");

unsafe extern "C" {
    /// The table of jumps that `build.rs` assembles: one address for each of [`FUNCTIONS`].
    static mut selvedge_cust_table: usize;
}

fn failed(call: &str, error: cust::error::CudaError) -> Error {
    Error::Driver { call: format!("cust: {call}"), code: error as u32, name: format!("{error:?}") }
}

impl Cuda {
    /// Makes cust use this device's driver and opens it; [`Cuda::through_cust`] then launches through it.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn open_cust(&self) -> Result<()> {
        if self.second.cust.get().is_some() {
            return Ok(());
        }
        for (i, name) in FUNCTIONS.lines().enumerate() {
            if let Some(address) = self.driver.symbol(name) {
                // SAFETY: the table has one entry for each line; nothing runs through it before it is filled.
                unsafe { (&raw mut selvedge_cust_table).add(i).write(address) };
            }
        }
        self.make_current()?;
        let ordinal = self.name().rsplit(':').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        cust::init(cust::CudaFlags::empty()).map_err(|e| failed("init", e))?;
        let device = Device::get_device(ordinal).map_err(|e| failed("get_device", e))?;
        let context = Context::new(device).map_err(|e| failed("Context::new", e))?;
        let stream =
            Stream::new(StreamFlags::DEFAULT, None).map_err(|e| failed("Stream::new", e))?;
        let opened = Cust { stream, kernels: Mutex::default(), context };
        let _ = self.second.cust.set(Box::leak(Box::new(opened)));
        Ok(())
    }

    /// Runs `work` with every launch going through cust, then waits for its stream.
    ///
    /// # Errors
    /// Those of `work` and of the driver; [`Error::Plan`] before [`Cuda::open_cust`] and for a kernel in clusters.
    pub fn through_cust<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let Some(cust) = self.second.cust.get() else {
            let problem = "cust is not open; call open_cust first".into();
            return Err(Error::Plan { at: "cust".into(), problem });
        };
        self.synchronize()?;
        self.second.set_on(true);
        let done = work();
        self.second.set_on(false);
        cust.stream.synchronize().map_err(|e| failed("Stream::synchronize", e))?;
        done
    }

    /// Launches through cust where that is switched on; `None` where it is not.
    pub(super) fn launch_by_cust(
        &self,
        symbol: &'static str,
        g: Geometry,
        args: &[u8],
    ) -> Option<Result<()>> {
        let cust = self.second.active()?;
        Some(self.launch_on(cust, symbol, g, args))
    }

    fn launch_on(&self, cust: &Cust, symbol: &'static str, g: Geometry, args: &[u8]) -> Result<()> {
        if g.cluster > 1 {
            let problem =
                format!("clusters of {} blocks; cust 0.3.2 cannot launch them", g.cluster);
            return Err(Error::Plan { at: symbol.into(), problem });
        }
        let mut kernels = cust.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        if !kernels.contains_key(symbol) {
            kernels.insert(symbol, self.load_by_cust(symbol, g.shared_bytes)?);
        }
        let Some(function) = kernels.get(symbol) else { return Ok(()) };
        let list = [args.as_ptr().cast_mut().cast()];
        // SAFETY: `Cuda::launch` has compared the size of the arguments with the kernel's own and checked that every
        // buffer lies in a live allocation; the driver copies the arguments before the call returns.
        let done = unsafe {
            let grid = (g.grid[0], g.grid[1], g.grid[2]);
            cust.stream.launch(function, grid, g.threads, g.shared_bytes, &list)
        };
        done.map_err(|e| failed(&format!("launch ({symbol})"), e))
    }

    /// The object that this program's own launcher takes, loaded again by cust. It stays loaded to the end of the
    /// process: cust's functions borrow their module.
    fn load_by_cust(&self, symbol: &'static str, shared_bytes: u32) -> Result<Function<'static>> {
        let image = self.image_of(symbol)?;
        let module = match self.target {
            Target::Ptx => Module::from_ptx(String::from_utf8_lossy(&image), &[]),
            _ => Module::from_cubin(&image, &[]),
        };
        let module: &'static Module =
            Box::leak(Box::new(module.map_err(|e| failed("Module::from_cubin", e))?));
        let function = module.get_function(symbol).map_err(|e| failed("get_function", e))?;
        let most = cust::sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let bytes = c_int::try_from(shared_bytes).unwrap_or(c_int::MAX);
        // SAFETY: a live function; cust has no call of its own for this.
        let code = unsafe { cust::sys::cuFuncSetAttribute(function.to_raw(), most, bytes) };
        if code as u32 != 0 {
            let (call, name) = ("cust: cuFuncSetAttribute".into(), format!("{code:?}"));
            return Err(Error::Driver { call, code: code as u32, name });
        }
        Ok(function)
    }
}
