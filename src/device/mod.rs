//! Where programs run: the only room with `unsafe` (besides one mmap).
//!
//! [`Device`] is an enum; each operation's `mod.rs` has the one `match`. Buffers of both devices are [`Buf`]
//! and [`BufMut`]; only host buffers can be viewed as slices.

#![allow(unsafe_code)]

mod allocation;
mod blas;
mod capture;
pub mod compile;
pub mod cpu;
pub mod cubin;
pub mod cubin_table;
mod cuda;
#[cfg(feature = "cust")]
mod cust;
mod driver;
mod effort;
mod emulated;
mod graph;
mod launch;
mod loaded;
mod memory;
pub mod nvtx;
mod objects;
pub mod occupancy;
mod pinned;
mod pool;
mod rehearsal;
mod second;
mod swap;
mod temporary;
mod tensor_map;
mod touched;
mod watch;

pub use allocation::Memory;
pub use blas::{Blas, Factor, MatrixProduct};
pub use cuda::{COUNTERS, Cuda, DRIVER_LIBRARY};
pub use driver::TensorMap;
pub use effort::{Effort, Engine, Launched, Lead, touched_bytes};
pub use emulated::{Emulated, Schedule};
pub use graph::{Event, Graph};
pub use launch::{Kernel, Occupancy};
pub use memory::{Arena, Weight, WeightBlock};
pub use pinned::Pinned;
pub use pool::Pool;
pub use rehearsal::StandIn;
pub use swap::Swap;
pub use tensor_map::TensorMapSpec;
pub use touched::Touched;

use crate::{
    error::{Error, Result},
    tensor::{DType, Types},
};
use std::sync::Arc;

/// A place to run.
#[derive(Debug, Clone)]
pub enum Device {
    /// Rust on this machine's cores.
    Cpu,
    /// A GPU, or the emulated driver in its place.
    Cuda(Arc<Cuda>),
}

impl Device {
    /// The device of a `--device` word: `cpu`, `cuda[:N]`, `emulated[:early|:late|:random:SEED]`.
    ///
    /// # Errors
    /// [`Error::Config`] for an unknown word, and those of [`Cuda::open`] and [`Cuda::emulated`].
    pub fn parse(word: &str) -> Result<Self> {
        let mut parts = word.splitn(3, ':');
        let parts = (parts.next(), parts.next(), parts.next());
        match parts {
            (Some("cpu"), None, None) => return Ok(Device::Cpu),
            (Some("cuda"), n, None) => {
                if let Ok(ordinal) = n.unwrap_or("0").parse() {
                    return Cuda::open(ordinal).map(Device::Cuda);
                }
            }
            (Some("emulated"), None | Some("early"), None) => {
                return Cuda::emulated(Schedule::Early).map(Device::Cuda);
            }
            (Some("emulated"), Some("late"), None) => {
                return Cuda::emulated(Schedule::Late).map(Device::Cuda);
            }
            (Some("emulated"), Some("random"), seed) => {
                if let Ok(seed) = seed.unwrap_or("1").parse() {
                    return Cuda::emulated(Schedule::Random(seed)).map(Device::Cuda);
                }
            }
            _ => {}
        }
        Err(Error::Config {
            key: "--device".into(),
            found: word.into(),
            expected: "cpu, emulated[:early|:late|:random:SEED] or cuda[:N]".into(),
            fix: "use --device cpu".into(),
        })
    }

    /// Memory that can be had now, bytes; `None` where the system does not say.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn free_bytes(&self) -> Result<Option<u64>> {
        match self {
            Device::Cpu => Ok(cpu::available_bytes()),
            Device::Cuda(cuda) => Ok(Some(cuda.mem_info()?.0 as u64)),
        }
    }

    /// How programs here store numbers when `dtype` is asked for.
    pub fn types(&self, dtype: DType) -> Types {
        match self {
            Device::Cpu => Types::cpu(dtype),
            Device::Cuda(_) => dtype.into(),
        }
    }

    /// `cpu`, `cuda:0`, `emulated`.
    pub fn name(&self) -> String {
        match self {
            Device::Cpu => "cpu".into(),
            Device::Cuda(cuda) => cuda.name().into(),
        }
    }
}

const NOTHING: &[u64] = &[];

/// A buffer to read.
#[derive(Clone, Copy, Debug)]
pub enum Buf<'a> {
    /// Host memory, 64-byte aligned.
    Host(&'a [u8]),
    /// Device memory: address and length in bytes.
    Device(u64, usize),
}

impl<'a> Buf<'a> {
    /// A buffer of no bytes (a value that was not kept).
    pub const EMPTY: Buf<'static> = Buf::Host(&[]);

    /// Host elements as f32.
    pub fn f32(self) -> &'a [f32] {
        bytemuck::cast_slice(self.host())
    }

    /// Host elements as i32.
    pub fn i32(self) -> &'a [i32] {
        bytemuck::cast_slice(self.host())
    }

    /// Host bytes, whatever the element type.
    pub fn raw(self) -> &'a [u8] {
        self.host()
    }

    /// A copy of the content, wherever it lies.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn bytes(self, device: &Device) -> Result<Vec<u8>> {
        match (self, device) {
            (Buf::Host(bytes), _) => Ok(bytes.to_vec()),
            (Buf::Device(address, len), Device::Cuda(cuda)) => {
                let mut bytes = vec![0; len];
                cuda.download(address, &mut bytes)?;
                Ok(bytes)
            }
            (Buf::Device(..), Device::Cpu) => unreachable!("plan: device buffer on the host"),
        }
    }

    /// Device address; 0 for a buffer of no bytes.
    pub fn address(self) -> u64 {
        match self {
            Buf::Host([]) => 0,
            Buf::Device(p, _) => p,
            Buf::Host(_) => unreachable!("plan: device view of a host buffer"),
        }
    }

    fn host(self) -> &'a [u8] {
        match self {
            Buf::Host([]) => bytemuck::cast_slice(NOTHING), // aligned, unlike an empty byte slice
            Buf::Host(b) => b,
            Buf::Device(..) => unreachable!("plan: host view of a device buffer"),
        }
    }
}

/// A buffer to write.
#[derive(Debug)]
pub enum BufMut<'a> {
    /// Host memory, 64-byte aligned.
    Host(&'a mut [u8]),
    /// Device memory: address and length in bytes.
    Device(u64, usize),
}

impl<'a> BufMut<'a> {
    /// The first `bytes`, at most as many as there are, and what is behind them.
    pub fn split_at(self, bytes: usize) -> (BufMut<'a>, BufMut<'a>) {
        let bytes = bytes.min(self.bytes());
        match self {
            BufMut::Host(all) => {
                let (first, behind) = all.split_at_mut(bytes);
                (BufMut::Host(first), BufMut::Host(behind))
            }
            BufMut::Device(p, n) => {
                (BufMut::Device(p, bytes), BufMut::Device(p + bytes as u64, n - bytes))
            }
        }
    }

    /// The same buffer, lent to write.
    pub fn lent(&mut self) -> BufMut<'_> {
        match self {
            BufMut::Host(all) => BufMut::Host(all),
            BufMut::Device(p, n) => BufMut::Device(*p, *n),
        }
    }

    /// The same buffer, lent to read.
    pub fn read(&self) -> Buf<'_> {
        match self {
            BufMut::Host(all) => Buf::Host(all),
            BufMut::Device(p, n) => Buf::Device(*p, *n),
        }
    }

    /// Host elements as f32.
    pub fn f32(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(self.host())
    }

    /// Host elements as i32.
    pub fn i32(&mut self) -> &mut [i32] {
        bytemuck::cast_slice_mut(self.host())
    }

    /// Host bytes, whatever the element type.
    pub fn raw(&mut self) -> &mut [u8] {
        self.host()
    }

    /// Device address; 0 for a buffer of no bytes.
    pub fn address(&self) -> u64 {
        match self {
            BufMut::Host([]) => 0,
            BufMut::Device(p, _) => *p,
            BufMut::Host(_) => unreachable!("plan: device view of a host buffer"),
        }
    }

    /// Length in bytes.
    pub fn bytes(&self) -> usize {
        match self {
            BufMut::Host(b) => b.len(),
            BufMut::Device(_, n) => *n,
        }
    }

    fn host(&mut self) -> &mut [u8] {
        match self {
            BufMut::Host([]) => bytemuck::cast_slice_mut(&mut [0u64; 0]),
            BufMut::Host(b) => b,
            BufMut::Device(..) => unreachable!("plan: host view of a device buffer"),
        }
    }
}
