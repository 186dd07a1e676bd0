//! A library that is opened from memory.

use crate::error::{Error, Result};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// A library file that exists only while it is opened: the loader maps it and needs no name afterwards.
pub(super) struct TemporaryLibrary {
    pub path: PathBuf,
}

impl TemporaryLibrary {
    pub fn write(image: &[u8]) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("selvedge-emulator-{}-{count}.so", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, image).map_err(Error::file("write", &path))?;
        Ok(Self { path })
    }
}

impl Drop for TemporaryLibrary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
