//! Named ranges for NVIDIA's profilers, where their library is installed; nothing elsewhere.

use std::ffi::{CString, c_char, c_int};
use std::marker::PhantomData;
use std::sync::OnceLock;

const LIBRARIES: [&str; 4] =
    ["libnvToolsExt.so.1", "libnvtx3interop.so.1", "libnvtx3interop.so", "libnvToolsExt.so"];

type Push = unsafe extern "C" fn(*const c_char) -> c_int;
type Pop = unsafe extern "C" fn() -> c_int;

struct Nvtx {
    push: Push,
    pop: Pop,
    _library: libloading::Library,
}

fn nvtx() -> Option<&'static Nvtx> {
    static OPENED: OnceLock<Option<Nvtx>> = OnceLock::new();
    let open = |name: &&str| {
        // SAFETY: the library has no initialiser that depends on our state.
        let library = unsafe { libloading::Library::new(*name) }.ok()?;
        // SAFETY: the type is that of the documented function.
        let push = *unsafe { library.get::<Push>(b"nvtxRangePushA") }.ok()?;
        // SAFETY: as above.
        let pop = *unsafe { library.get::<Pop>(b"nvtxRangePop") }.ok()?;
        Some(Nvtx { push, pop, _library: library })
    };
    OPENED.get_or_init(|| LIBRARIES.iter().find_map(open)).as_ref()
}

/// A range of this thread that ends when it is dropped.
#[derive(Debug)]
pub struct Range {
    open: bool,
    /// Ranges nest within a thread.
    thread: PhantomData<*const ()>,
}

/// Begins a range named by `name`, which is asked only where a profiler's library is there.
pub fn range<T: Into<Vec<u8>>>(name: impl FnOnce() -> T) -> Range {
    let begun = nvtx().and_then(|nvtx| {
        let text = CString::new(name()).ok()?;
        // SAFETY: a NUL-terminated text, which the library copies.
        unsafe { (nvtx.push)(text.as_ptr()) };
        Some(())
    });
    Range { open: begun.is_some(), thread: PhantomData }
}

impl Drop for Range {
    fn drop(&mut self) {
        if let (true, Some(nvtx)) = (self.open, nvtx()) {
            // SAFETY: closes the range that this value began.
            unsafe { (nvtx.pop)() };
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn ranges_nest_with_and_without_the_library() {
        let _outer = super::range(|| "outer");
        let _inner = super::range(|| String::from("inner"));
    }
}
