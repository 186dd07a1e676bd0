//! Finds, checks and launches kernels. A launch is safe: the argument struct has the size the compiled
//! kernel declares, the block is its tile's, and every buffer lies in a live allocation.

use super::{
    cubin::{self, Tile},
    cuda::Cuda,
    driver::{Geometry, Handle},
    effort::{Effort, Launched},
    loaded::Kernels,
    touched::Touched,
};
use crate::error::{Error, Result};
use bytemuck::Pod;
use std::ffi::CString;
use std::marker::PhantomData;
use std::sync::PoisonError;

/// The driver's limits on a grid.
const MAX_GRID: [u64; 3] = [0x7fff_ffff, 65_535, 65_535];
/// Dynamic shared memory that needs no permission.
const FREE_SHARED_BYTES: u32 = 48 << 10;

/// A kernel that takes one argument struct `A`.
#[derive(Clone, Copy, Debug)]
pub struct Kernel<A> {
    symbol: &'static str,
    function: Handle,
    tile: Tile,
    effort: Option<Effort>,
    args: PhantomData<fn(A)>,
}

impl<A> Kernel<A> {
    /// Its block's numbers.
    pub fn tile(&self) -> Tile {
        self.tile
    }

    /// The same, whose launch will take this much: what a forecast counts.
    pub fn taking(self, effort: Effort) -> Self {
        Self { effort: Some(effort), ..self }
    }

    fn geometry(&self, grid: [u32; 3], programmatic: bool) -> Geometry {
        let Tile { threads, shared_bytes, cluster, .. } = self.tile;
        Geometry { grid, threads, shared_bytes, cluster, programmatic }
    }
}

/// What a kernel uses on the device it is loaded on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occupancy {
    /// Registers of a thread.
    pub registers: u32,
    /// Blocks that a multiprocessor holds at a time.
    pub blocks: u32,
}

impl Cuda {
    /// The kernel `symbol` of operation `op`, loaded and checked on first use.
    ///
    /// # Errors
    /// [`Error::NoKernel`] when no embedded object for this chip has it, [`Error::Format`] when it spills or
    /// its argument struct is not `A`'s size, [`Error::Driver`].
    pub fn kernel<A: Pod>(&self, op: &'static str, symbol: &'static str) -> Result<Kernel<A>> {
        let mut kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        let (function, tile) = match kernels.found.get(symbol) {
            Some(known) => *known,
            None => {
                let found = self.load(&mut kernels, op, symbol)?;
                kernels.found.insert(symbol, found);
                found
            }
        };
        if size_of::<A>() != tile.args_bytes as usize {
            return Err(Error::Plan {
                at: format!("{op}: {symbol}"),
                problem: format!(
                    "the argument struct has {} bytes, the kernel's tile record says {}; \
                     make cuda.rs and the .cu agree",
                    size_of::<A>(),
                    tile.args_bytes
                ),
            });
        }
        Ok(Kernel { symbol, function, tile, effort: None, args: PhantomData })
    }

    /// The object that `symbol` is taken from.
    #[cfg(feature = "cust")]
    pub(super) fn image_of(&self, symbol: &str) -> Result<Vec<u8>> {
        let mut kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kernels.objects.find(self.target, symbol);
        found.map(|f| f.image.to_vec()).map_err(|tried| Error::NoKernel {
            op: "cust",
            key: self.name().into(),
            tried: tried.into_owned(),
        })
    }

    /// What the driver says about a loaded kernel.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn occupancy<A>(&self, kernel: &Kernel<A>) -> Result<Occupancy> {
        self.make_current()?;
        let (f, tile) = (kernel.function, kernel.tile);
        Ok(Occupancy {
            registers: self.driver.registers(f)?,
            blocks: self.driver.occupancy(f, tile.threads, tile.shared_bytes)?,
        })
    }

    /// The grid of a kernel whose clusters take `units` of work in turn: no more of them than run at a time,
    /// because units may wait for lower ones.
    ///
    /// # Errors
    /// [`Error::Plan`] when not one fits the device; those of the driver.
    pub fn persistent_grid<A>(&self, kernel: &Kernel<A>, units: u64) -> Result<[u64; 3]> {
        let tile = kernel.tile();
        let promised = self.multiprocessors() * tile.blocks_per_sm / tile.cluster;
        let room = promised.min(self.resident_clusters(kernel)?).max(1);
        Ok([units.clamp(1, u64::from(room)) * u64::from(tile.cluster), 1, 1])
    }

    fn resident_clusters<A>(&self, kernel: &Kernel<A>) -> Result<u32> {
        if self.watch.is_rehearsal() {
            return Ok(u32::MAX); // nothing runs, so nothing waits
        }
        let mut kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = kernels.resident.get(kernel.symbol) {
            return Ok(*known);
        }
        self.make_current()?;
        let geometry = kernel.geometry([kernel.tile.cluster, 1, 1], false);
        let clusters = self.driver.max_clusters(kernel.function, geometry, self.stream)?;
        if clusters == 0 {
            let Tile { cluster, shared_bytes, .. } = kernel.tile;
            return Err(Error::Plan {
                at: kernel.symbol.into(),
                problem: format!(
                    "{} has no room for one cluster of {cluster} blocks with {shared_bytes} bytes of shared \
                     memory each; take another --variant, or more of the device",
                    self.chip()
                ),
            });
        }
        kernels.resident.insert(kernel.symbol, clusters);
        Ok(clusters)
    }

    fn load(
        &self,
        kernels: &mut Kernels,
        op: &'static str,
        symbol: &'static str,
    ) -> Result<(Handle, Tile)> {
        let no_kernel = |key, tried| Error::NoKernel { op, key, tried };
        let object = kernels.objects.find(self.target, symbol).map_err(|tried| {
            no_kernel(format!("{} ({})", self.name(), self.target.name()), tried.into_owned())
        })?;
        let info = object.info;
        cubin::check(object.source, &info)?;
        if info.tile.shared_bytes > self.shared_bytes {
            let have = self.shared_bytes;
            return Err(no_kernel(
                format!("{} with {have} bytes of shared memory", self.chip()),
                format!("{symbol}, which needs {}", info.tile.shared_bytes),
            ));
        }
        if self.watch.is_rehearsal() {
            return Ok((0, info.tile));
        }
        self.make_current()?;
        let module = match kernels.modules.get(object.source) {
            Some(module) => *module,
            None => {
                let mut image = object.image.to_vec();
                image.push(0); // PTX is text and ends in NUL; an ELF image does not mind
                let module = self.driver.module_load(&image)?;
                kernels.modules.insert(object.source.into(), module);
                module
            }
        };
        let name = CString::new(symbol).unwrap_or_default();
        let function = self.driver.function(module, &name)?;
        if info.tile.shared_bytes > FREE_SHARED_BYTES {
            self.driver.allow_shared(function, info.tile.shared_bytes)?;
        }
        Ok((function, info.tile))
    }

    /// Launches over `grid` blocks in the device's stream; returns before the kernel ends.
    ///
    /// # Errors
    /// [`Error::Plan`] for a grid outside the driver's limits or a buffer outside the live allocations;
    /// [`Error::Driver`].
    pub fn launch<A: Pod>(
        &self,
        kernel: &Kernel<A>,
        grid: [u64; 3],
        args: &A,
        touches: &[Touched],
    ) -> Result<()> {
        if grid.iter().zip(MAX_GRID).any(|(n, max)| *n == 0 || *n > max) {
            return Err(Error::Plan {
                at: kernel.symbol.into(),
                problem: format!("a grid of {grid:?} blocks, expected 1 to {MAX_GRID:?}"),
            });
        }
        let cluster = kernel.tile.cluster;
        if !grid[0].is_multiple_of(u64::from(cluster)) {
            return Err(Error::Plan {
                at: kernel.symbol.into(),
                problem: format!("a grid of {grid:?} blocks in clusters of {cluster} along x"),
            });
        }
        for t in touches {
            self.inside(&format!("{}: {}", kernel.symbol, t.what), t.address, t.bytes)?;
        }
        let watched = self.watch.announce(kernel.symbol);
        self.watch.remember(|| {
            Launched::kernel(kernel.symbol, kernel.effort, grid.iter().product(), touches)
        });
        if self.watch.is_rehearsal() {
            return Ok(());
        }
        self.make_current()?;
        let geometry = kernel.geometry(grid.map(|n| n as u32), self.is_programmatic());
        let args = bytemuck::bytes_of(args);
        #[cfg(feature = "cust")]
        if let Some(done) = self.launch_by_cust(kernel.symbol, geometry, args) {
            return done;
        }
        let named = |e| match e {
            Error::Driver { call, code, name } => {
                Error::Driver { call: format!("{call} ({})", kernel.symbol), code, name }
            }
            other => other,
        };
        let launched = self.driver.launch(kernel.function, geometry, self.stream, args);
        self.after_launch(launched.map_err(named))?;
        if watched && self.captured().is_none() {
            self.driver.stream_synchronize(self.stream).map_err(named)?;
        }
        Ok(())
    }
}
