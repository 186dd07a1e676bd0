//! NVIDIA's own matrix products, opened at run time where they are installed: a yardstick for
//! `selvedge kernels bench`, never part of a program.

use super::{Cuda, Memory, Touched};
use crate::{
    error::{Error, Result},
    tensor::DType,
};
use std::ffi::{c_int, c_void};
use std::sync::Arc;

const LIBRARIES: [&str; 3] = ["libcublas.so.13", "libcublas.so.12", "libcublas.so"];
/// What NVIDIA advises for Hopper; given in advance, so that nothing is allocated during a capture.
const WORKSPACE_BYTES: usize = 32 << 20;
const COMPUTE_F32: c_int = 68; // CUBLAS_COMPUTE_32F
const DEFAULT_ALGORITHM: c_int = -1; // CUBLAS_GEMM_DEFAULT

type Handle = *mut c_void;
type Code = c_int;
type Create = unsafe extern "C" fn(*mut Handle) -> Code;
type Destroy = unsafe extern "C" fn(Handle) -> Code;
type SetStream = unsafe extern "C" fn(Handle, usize) -> Code;
type SetWorkspace = unsafe extern "C" fn(Handle, u64, usize) -> Code;
type Product = unsafe extern "C" fn(
    Handle,
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
    *const f32,
    u64,
    c_int,
    c_int,
    u64,
    c_int,
    c_int,
    *const f32,
    u64,
    c_int,
    c_int,
    c_int,
    c_int,
) -> Code;

/// An opened cuBLAS on the stream of one device.
pub struct Blas {
    cuda: Arc<Cuda>,
    handle: Handle,
    destroy: Destroy,
    product: Product,
    _workspace: Memory,
    _library: libloading::Library,
}

impl std::fmt::Debug for Blas {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Blas({})", self.cuda.name())
    }
}

/// One factor of a product: a row-major matrix.
#[derive(Clone, Copy, Debug)]
pub struct Factor {
    /// Start.
    pub address: u64,
    /// Whether its transpose is multiplied.
    pub transposed: bool,
}

/// `c[m, n] = a[m, k] b[k, n]`, all row-major and of one element type, accumulated in f32.
#[derive(Clone, Copy, Debug)]
pub struct MatrixProduct {
    /// Element type.
    pub dtype: DType,
    /// Rows of the result, its columns, and the length of the sums.
    pub extents: [usize; 3],
    /// The left factor; stored `[k, m]` when transposed.
    pub a: Factor,
    /// The right factor; stored `[n, k]` when transposed.
    pub b: Factor,
    /// The result.
    pub c: u64,
}

fn answered(call: &str, code: Code) -> Result<()> {
    if code == 0 {
        return Ok(());
    }
    let code = u32::try_from(code).unwrap_or(u32::MAX);
    Err(Error::Driver { call: call.into(), code, name: "of cuBLAS".into() })
}

impl Cuda {
    /// Opens cuBLAS; `None` where it is not installed.
    ///
    /// # Errors
    /// What cuBLAS answers when it cannot use the device.
    pub fn blas(self: &Arc<Self>) -> Result<Option<Blas>> {
        // SAFETY: NVIDIA's library has no initialiser that depends on our state.
        let library = LIBRARIES.iter().find_map(|n| unsafe { libloading::Library::new(*n) }.ok());
        let Some(library) = library else { return Ok(None) };
        // SAFETY: the types are those of the documented functions of these names.
        let functions = unsafe {
            let create = library.get::<Create>(b"cublasCreate_v2").map(|f| *f);
            let destroy = library.get::<Destroy>(b"cublasDestroy_v2").map(|f| *f);
            let stream = library.get::<SetStream>(b"cublasSetStream_v2").map(|f| *f);
            let workspace = library.get::<SetWorkspace>(b"cublasSetWorkspace_v2").map(|f| *f);
            let product = library.get::<Product>(b"cublasGemmEx").map(|f| *f);
            (create, destroy, stream, workspace, product)
        };
        let (Ok(create), Ok(destroy), Ok(set_stream), Ok(set_workspace), Ok(product)) = functions
        else {
            return Ok(None);
        };
        self.make_current()?;
        let workspace = self.alloc(WORKSPACE_BYTES)?;
        let mut handle: Handle = std::ptr::null_mut();
        // SAFETY: writes one handle, in the context made current above.
        answered("cublasCreate", unsafe { create(&mut handle) })?;
        let (cuda, at) = (self.clone(), workspace.address());
        let blas =
            Blas { cuda, handle, destroy, product, _workspace: workspace, _library: library };
        // SAFETY: a live handle and the device's own stream.
        answered("cublasSetStream", unsafe { set_stream(handle, self.stream) })?;
        // SAFETY: device memory that lives as long as the handle.
        answered("cublasSetWorkspace", unsafe { set_workspace(handle, at, WORKSPACE_BYTES) })?;
        Ok(Some(blas))
    }
}

impl Blas {
    /// Multiplies, in the device's stream.
    ///
    /// # Errors
    /// [`Error::Plan`] for memory outside the live allocations, and what cuBLAS answers.
    pub fn multiply(&self, p: &MatrixProduct) -> Result<()> {
        let [m, n, k] = p.extents;
        let size = p.dtype.size_bytes();
        let touched = |what, address, rows: usize, cols: usize| Touched {
            what,
            address,
            bytes: rows * cols * size,
        };
        for t in [touched("a", p.a.address, m, k), touched("b", p.b.address, k, n)]
            .into_iter()
            .chain([touched("c", p.c, m, n)])
        {
            self.cuda.inside(&format!("cublas: {}", t.what), t.address, t.bytes)?;
        }
        self.cuda.make_current()?;
        let int = |n: usize| c_int::try_from(n).unwrap_or(c_int::MAX);
        let kind = match p.dtype {
            DType::F32 => 0,
            DType::F16 => 2,
            DType::Bf16 => 14,
            DType::I32 => 10,
        };
        // cuBLAS counts columns first: it computes the transposed result from the transposed factors.
        let lead = |f: Factor, rows: usize, cols: usize| if f.transposed { rows } else { cols };
        let (one, zero) = (1.0f32, 0.0f32);
        // SAFETY: all three matrices lie in live allocations, as checked above; the scalars live on the host.
        let code = unsafe {
            (self.product)(
                self.handle,
                c_int::from(p.b.transposed),
                c_int::from(p.a.transposed),
                int(n),
                int(m),
                int(k),
                &one,
                p.b.address,
                kind,
                int(lead(p.b, k, n)),
                p.a.address,
                kind,
                int(lead(p.a, m, k)),
                &zero,
                p.c,
                kind,
                int(n),
                COMPUTE_F32,
                DEFAULT_ALGORITHM,
            )
        };
        answered("cublasGemmEx", code)
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        if self.cuda.make_current().is_ok() {
            // SAFETY: created once, destroyed once, before its workspace and its library.
            unsafe { (self.destroy)(self.handle) };
        }
    }
}
