//! Calls about modules, functions, launches and tensor maps.

use super::{Driver, Encoding, Handle, TensorMap};
use crate::error::Result;
use cudarc::driver::sys;
use std::ffi::{CStr, c_int, c_uint, c_void};

use sys::CUfunction_attribute_enum as FunctionAttribute;
const MAX_DYNAMIC_SHARED: c_int =
    FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as c_int;
const REGISTERS: c_int = FunctionAttribute::CU_FUNC_ATTRIBUTE_NUM_REGS as c_int;
const CLUSTER: sys::CUlaunchAttributeID =
    sys::CUlaunchAttributeID_enum::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
const PROGRAMMATIC: sys::CUlaunchAttributeID =
    sys::CUlaunchAttributeID_enum::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;

/// The extents of a launch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    pub grid: [u32; 3],
    pub threads: u32,
    pub shared_bytes: u32,
    /// Blocks of a cluster, along x.
    pub cluster: u32,
    /// Whether it may start while the kernel before it runs, whose end it waits for itself.
    pub programmatic: bool,
}

/// An attribute without a value.
fn attribute(id: sys::CUlaunchAttributeID) -> sys::CUlaunchAttribute {
    // SAFETY: a union of plain numbers, for which zeros are a value.
    let mut attribute: sys::CUlaunchAttribute = unsafe { std::mem::zeroed() };
    attribute.id = id;
    attribute
}

/// What a launch says besides its extents: its clusters, and whether it starts early.
fn attributes(g: Geometry) -> Vec<sys::CUlaunchAttribute> {
    let mut all = vec![];
    if g.cluster > 1 {
        let mut cluster = attribute(CLUSTER);
        cluster.value.clusterDim.x = g.cluster;
        cluster.value.clusterDim.y = 1;
        cluster.value.clusterDim.z = 1;
        all.push(cluster);
    }
    if g.programmatic {
        let mut early = attribute(PROGRAMMATIC);
        early.value.programmaticStreamSerializationAllowed = 1;
        all.push(early);
    }
    all
}

/// A launch with attributes, which must live as long as the result is used.
fn config(
    g: Geometry,
    stream: Handle,
    attributes: &mut [sys::CUlaunchAttribute],
) -> sys::CUlaunchConfig {
    sys::CUlaunchConfig {
        gridDimX: g.grid[0],
        gridDimY: g.grid[1],
        gridDimZ: g.grid[2],
        blockDimX: g.threads,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: g.shared_bytes,
        hStream: stream as sys::CUstream,
        attrs: attributes.as_mut_ptr(),
        numAttrs: attributes.len() as u32,
    }
}

impl Driver {
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
    pub fn launch(&self, f: Handle, g: Geometry, stream: Handle, args: &[u8]) -> Result<()> {
        let mut list = [args.as_ptr().cast_mut().cast::<c_void>()];
        let args = list.as_mut_ptr();
        let mut attributes = attributes(g);
        if !attributes.is_empty() {
            let config = config(g, stream, &mut attributes);
            let none = std::ptr::null_mut();
            // SAFETY: as below; the configuration and its attributes live until the call returns.
            let code = unsafe { (self.table.launch_ex)(&config, f, args, none) };
            return self.ok("cuLaunchKernelEx", code);
        }
        let [x, y, z] = g.grid;
        let none = std::ptr::null_mut();
        // SAFETY: the driver copies the arguments before it returns and does not write them.
        let code = unsafe {
            (self.table.launch)(f, x, y, z, g.threads, 1, 1, g.shared_bytes, stream, args, none)
        };
        self.ok("cuLaunchKernel", code)
    }

    /// Clusters of a function that the device holds at a time, when nothing else runs.
    pub fn max_clusters(&self, function: Handle, g: Geometry, stream: Handle) -> Result<u32> {
        let mut clusters = 0;
        let mut attributes = attributes(g);
        let config = config(g, stream, &mut attributes);
        // SAFETY: a live function; the configuration and its attributes live until the call returns; writes one int.
        let code = unsafe { (self.table.max_clusters)(&mut clusters, function, &config) };
        self.ok("cuOccupancyMaxActiveClusters", code)?;
        Ok(u32::try_from(clusters).unwrap_or(0))
    }

    /// Registers of a thread, as the driver compiled or loaded the function.
    pub fn registers(&self, function: Handle) -> Result<u32> {
        let mut value = 0;
        // SAFETY: a live function; writes one int.
        let code = unsafe { (self.table.function_get)(&mut value, REGISTERS, function) };
        self.ok("cuFuncGetAttribute", code)?;
        Ok(u32::try_from(value).unwrap_or(0))
    }

    /// Blocks of a function that one multiprocessor holds at a time.
    pub fn occupancy(&self, function: Handle, threads: u32, shared_bytes: u32) -> Result<u32> {
        let (mut blocks, threads) = (0, c_int::try_from(threads).unwrap_or(c_int::MAX));
        // SAFETY: a live function; writes one int.
        let code = unsafe {
            (self.table.occupancy)(&mut blocks, function, threads, shared_bytes as usize)
        };
        self.ok("cuOccupancyMaxActiveBlocksPerMultiprocessor", code)?;
        Ok(u32::try_from(blocks).unwrap_or(0))
    }

    /// Encodes a tensor map; the caller has checked everything the driver documents.
    pub fn tensor_map(&self, e: &Encoding<'_>) -> Result<TensorMap> {
        /// The driver wants more alignment than an argument needs.
        #[repr(align(128))]
        struct Aligned(TensorMap);
        let mut map = Aligned(TensorMap::default());
        let rank = c_uint::try_from(e.dims.len()).unwrap_or(c_uint::MAX);
        // SAFETY: `dims`, `block` and `steps` have `rank` entries and `strides` one less; writes one map.
        let code = unsafe {
            (self.table.tensor_map)(
                &mut map.0,
                e.dtype,
                rank,
                e.address,
                e.dims.as_ptr(),
                e.strides.as_ptr(),
                e.block.as_ptr(),
                e.steps.as_ptr(),
                e.interleave,
                e.swizzle,
                e.promotion,
                e.fill,
            )
        };
        self.ok("cuTensorMapEncodeTiled", code)?;
        Ok(map.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launch_says_its_cluster_and_that_it_starts_early() {
        let of = |cluster, programmatic| {
            let g =
                Geometry { grid: [4, 1, 1], threads: 32, shared_bytes: 0, cluster, programmatic };
            attributes(g).iter().map(|a| a.id).collect::<Vec<_>>()
        };
        assert_eq!(of(1, false), []);
        assert_eq!(of(2, false), [CLUSTER]);
        assert_eq!(of(2, true), [CLUSTER, PROGRAMMATIC]);
        assert_eq!(of(1, true), [PROGRAMMATIC]);
    }
}
