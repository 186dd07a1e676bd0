//! Where programs run: the only room with `unsafe` (besides one mmap).
//!
//! [`Device`] is an enum; each operation's `mod.rs` has the one `match`. Buffers of both devices are [`Buf`]
//! and [`BufMut`]; only host buffers can be viewed as slices.

#![allow(unsafe_code)]

pub mod cpu;

use crate::error::{Error, Result};

/// A place to run.
#[derive(Debug, Clone)]
pub enum Device {
    /// Rust on this machine's cores.
    Cpu,
}

impl Device {
    /// The device of a `--device` word.
    ///
    /// # Errors
    /// [`Error::Config`] for an unknown word.
    pub fn parse(word: &str) -> Result<Self> {
        match word {
            "cpu" => Ok(Device::Cpu),
            other => Err(Error::Config {
                key: "--device".into(),
                found: other.into(),
                expected: "cpu, emulated or cuda[:N]".into(),
                fix: "use --device cpu".into(),
            }),
        }
    }

    /// `cpu`, `cuda:0`, `emulated`.
    pub fn name(&self) -> String {
        match self {
            Device::Cpu => "cpu".into(),
        }
    }
}

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

    /// Device address.
    pub fn address(self) -> u64 {
        match self {
            Buf::Device(p, _) => p,
            Buf::Host(_) => unreachable!("plan: device view of a host buffer"),
        }
    }

    fn host(self) -> &'a [u8] {
        match self {
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

impl BufMut<'_> {
    /// Host elements as f32.
    pub fn f32(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(self.host())
    }

    /// Host elements as i32.
    pub fn i32(&mut self) -> &mut [i32] {
        bytemuck::cast_slice_mut(self.host())
    }

    /// Device address.
    pub fn address(&self) -> u64 {
        match self {
            BufMut::Device(p, _) => *p,
            BufMut::Host(_) => unreachable!("plan: device view of a host buffer"),
        }
    }

    fn host(&mut self) -> &mut [u8] {
        match self {
            BufMut::Host(b) => b,
            BufMut::Device(..) => unreachable!("plan: host view of a device buffer"),
        }
    }
}
