//! Calls about devices, contexts, streams and memory.

use super::{Attribute, Driver, Handle};
use crate::error::{Error, Result};
use cudarc::driver::sys;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

const STREAM_NON_BLOCKING: c_uint = sys::CUstream_flags_enum::CU_STREAM_NON_BLOCKING as c_uint;

impl Driver {
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

    /// Free and total bytes of the device.
    pub fn memory_info(&self) -> Result<(usize, usize)> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: writes two sizes.
        self.ok("cuMemGetInfo", unsafe { (self.table.memory_info)(&mut free, &mut total) })?;
        Ok((free, total))
    }

    /// Host memory that the device copies without a detour; its address, 4096-byte aligned.
    pub fn host_alloc(&self, bytes: usize) -> Result<*mut u8> {
        let mut start: *mut c_void = std::ptr::null_mut();
        // SAFETY: writes one pointer.
        self.ok("cuMemHostAlloc", unsafe { (self.table.host_alloc)(&mut start, bytes, 0) })?;
        Ok(start.cast())
    }

    pub fn host_free(&self, start: *mut u8) {
        // SAFETY: from `host_alloc`, freed once by its owner's drop.
        unsafe { (self.table.host_free)(start.cast()) };
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

    /// Copies to the device without waiting. The caller leaves `from` alone until the stream has passed it.
    pub fn copy_later(&self, to: u64, from: &[u8], stream: Handle) -> Result<()> {
        // SAFETY: `Pinned` waits before it lends or frees the slice; the device range is inside an allocation.
        let code = unsafe { (self.table.to_device)(to, from.as_ptr().cast(), from.len(), stream) };
        self.ok("cuMemcpyHtoDAsync", code)
    }

    /// Copies to the host without waiting. The caller reads `to` when the stream has passed it.
    pub fn fetch_later(&self, to: &mut [u8], from: u64, stream: Handle) -> Result<()> {
        // SAFETY: `Pinned` waits before it lends or frees the slice; the device range is inside an allocation.
        let code = unsafe { (self.table.to_host)(to.as_mut_ptr().cast(), from, to.len(), stream) };
        self.ok("cuMemcpyDtoHAsync", code)
    }

    pub fn copy_on_device(&self, to: u64, from: u64, bytes: usize, stream: Handle) -> Result<()> {
        // SAFETY: the caller has checked both ranges.
        self.ok("cuMemcpyDtoDAsync", unsafe { (self.table.on_device)(to, from, bytes, stream) })
    }

    pub fn fill(&self, to: u64, value: u8, bytes: usize, stream: Handle) -> Result<()> {
        // SAFETY: the caller has checked the range.
        self.ok("cuMemsetD8Async", unsafe { (self.table.fill)(to, value, bytes, stream) })
    }
}
