//! The memory of a program on any device: one arena and the frozen weights beside it.

use super::{Buf, BufMut, Cuda, Device, Memory, Pinned, cpu::HostArena};
use crate::{
    error::Result,
    tensor::{DType, Floats},
};
use std::{borrow::Cow, ops::Range, sync::Arc};

/// Elements converted and copied at a time.
const UPLOAD_ELEMENTS: usize = 1 << 22;

/// One block of memory, lent out as disjoint ranges of bytes.
#[derive(Debug)]
pub enum Arena {
    /// Host memory.
    Host(HostArena),
    /// Device memory.
    Cuda(Arc<Cuda>, Memory),
}

/// A frozen weight where the device reads it.
pub enum Weight {
    /// Shared with other programs.
    Host(Floats),
    /// The same, stored in half precision.
    Halves(Arc<dyn AsRef<[u8]> + Send + Sync>),
    /// Address and bytes of a copy in a [`WeightBlock`].
    Cuda(u64, usize),
}

/// The frozen weights of one program: on a GPU one allocation, so that a thousand weights waste no pages.
#[derive(Debug)]
pub enum WeightBlock {
    /// Weights stay where they are.
    Host,
    /// Memory, and where the next weight goes.
    Cuda(Arc<Cuda>, Memory, usize),
}

/// Every weight starts at a multiple of this, bytes.
const WEIGHT_ALIGN: usize = 256;

impl WeightBlock {
    /// Room for weights of these sizes in bytes.
    ///
    /// # Errors
    /// [`crate::error::Error::OutOfMemory`], or those of the driver.
    pub fn new(device: &Device, sizes: impl Iterator<Item = usize>) -> Result<Self> {
        match device {
            Device::Cpu => Ok(WeightBlock::Host),
            Device::Cuda(cuda) => {
                let bytes: usize = sizes.map(|b| b.next_multiple_of(WEIGHT_ALIGN)).sum();
                Ok(WeightBlock::Cuda(cuda.clone(), cuda.alloc(bytes.max(1))?, 0))
            }
        }
    }

    /// Brings the next weight to the device, stored as `dtype`; on the CPU it stays where it is, f32.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn put(&mut self, data: Floats, dtype: DType) -> Result<Weight> {
        if matches!(self, WeightBlock::Host) {
            return Ok(Weight::Host(data));
        }
        let parts = data.chunks(UPLOAD_ELEMENTS).map(|part| Cow::Owned(dtype.encode(part)));
        self.upload(parts)
    }

    /// Brings the next weight to a GPU as it is stored; on the CPU it stays where it is.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn put_stored(&mut self, bytes: Arc<dyn AsRef<[u8]> + Send + Sync>) -> Result<Weight> {
        match self {
            WeightBlock::Host => Ok(Weight::Halves(bytes)),
            _ => self.upload([Cow::Borrowed((*bytes).as_ref())].into_iter()),
        }
    }

    fn upload<'b>(&mut self, parts: impl Iterator<Item = Cow<'b, [u8]>>) -> Result<Weight> {
        let WeightBlock::Cuda(cuda, memory, next) = self else { return Ok(Weight::Cuda(0, 0)) };
        let start = memory.address() + *next as u64;
        let mut bytes = 0;
        for part in parts {
            cuda.upload(start + bytes as u64, &part)?;
            bytes += part.len();
        }
        *next += bytes.next_multiple_of(WEIGHT_ALIGN);
        Ok(Weight::Cuda(start, bytes))
    }
}

impl std::fmt::Debug for Weight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Weight::Host(w) => write!(f, "Weight({w:?})"),
            Weight::Halves(w) => write!(f, "Weight({} bytes)", (**w).as_ref().len()),
            Weight::Cuda(address, bytes) => write!(f, "Weight({bytes} bytes at {address:#x})"),
        }
    }
}

impl Weight {
    /// To read.
    pub fn buf(&self) -> Buf<'_> {
        match self {
            Weight::Host(w) => Buf::Host(bytemuck::cast_slice(&w[..])),
            Weight::Halves(w) => Buf::Host((**w).as_ref()),
            Weight::Cuda(address, bytes) => Buf::Device(*address, *bytes),
        }
    }
}

impl Arena {
    /// `bytes` of memory on `device`; `largest` is put into the message when they cannot be had.
    ///
    /// # Errors
    /// [`crate::error::Error::OutOfMemory`], or those of the driver.
    pub fn new(device: &Device, bytes: usize, largest: &str) -> Result<Self> {
        match device {
            Device::Cpu => HostArena::new(bytes, largest).map(Arena::Host),
            Device::Cuda(cuda) => {
                let memory = cuda.alloc(bytes.max(1))?;
                cuda.fill(memory.address(), bytes.max(1), 0)?;
                Ok(Arena::Cuda(cuda.clone(), memory))
            }
        }
    }

    /// The address of `range` in a GPU's memory; `None` on the host.
    pub fn address(&self, range: &Range<usize>) -> Option<u64> {
        match self {
            Arena::Host(_) => None,
            Arena::Cuda(_, memory) => Some(memory.address() + range.start as u64),
        }
    }

    /// A copy of the bytes of `range`.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn get(&self, range: &Range<usize>) -> Result<Vec<u8>> {
        match self {
            Arena::Host(a) => Ok(a.read(range).to_vec()),
            Arena::Cuda(cuda, memory) => {
                let mut data = vec![0; range.len()];
                cuda.download(memory.address() + range.start as u64, &mut data)?;
                Ok(data)
            }
        }
    }

    /// Writes `data` to the bytes of `range`.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn set(&mut self, range: &Range<usize>, data: &[u8]) -> Result<()> {
        match self {
            Arena::Host(a) => {
                a.write(range).copy_from_slice(data);
                Ok(())
            }
            Arena::Cuda(cuda, memory) => cuda.upload(memory.address() + range.start as u64, data),
        }
    }

    /// Writes `data` to the bytes of `range` before what is launched next, without waiting for the device: it
    /// goes through `stage`, which is made on first use and belongs to this range.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn feed(
        &mut self,
        range: &Range<usize>,
        data: &[u8],
        stage: &mut Option<Pinned>,
    ) -> Result<()> {
        let Arena::Cuda(cuda, memory) = self else { return self.set(range, data) };
        let stage = match stage {
            Some(stage) => stage,
            none => none.insert(cuda.pinned(data.len())?),
        };
        stage.write()?.copy_from_slice(data);
        stage.upload(memory.address() + range.start as u64)
    }

    /// Sets every byte of `range` to `value`.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn fill(&mut self, range: &Range<usize>, value: u8) -> Result<()> {
        match self {
            Arena::Host(a) => {
                a.write(range).fill(value);
                Ok(())
            }
            Arena::Cuda(_, _) if range.is_empty() => Ok(()),
            Arena::Cuda(cuda, memory) => {
                cuda.fill(memory.address() + range.start as u64, range.len(), value)
            }
        }
    }

    /// Host bytes to write in place; `None` on another device.
    pub fn host(&mut self, range: &Range<usize>) -> Option<&mut [u8]> {
        match self {
            Arena::Host(a) => Some(a.write(range)),
            Arena::Cuda(..) => None,
        }
    }

    /// Buffers to read and buffers to write at the same time.
    ///
    /// # Panics
    /// When a written range overlaps any other: a bug of the plan.
    pub fn lend(
        &mut self,
        reads: &[Range<usize>],
        writes: &[Range<usize>],
    ) -> (Vec<Buf<'_>>, Vec<BufMut<'_>>) {
        match self {
            Arena::Host(a) => {
                let (r, w) = a.lend(reads, writes);
                (r.into_iter().map(Buf::Host).collect(), w.into_iter().map(BufMut::Host).collect())
            }
            Arena::Cuda(_, memory) => {
                let at = |r: &Range<usize>| (memory.address() + r.start as u64, r.len());
                let read = |r: &Range<usize>| Buf::Device(at(r).0, at(r).1);
                let write = |r: &Range<usize>| BufMut::Device(at(r).0, at(r).1);
                (reads.iter().map(read).collect(), writes.iter().map(write).collect())
            }
        }
    }
}
