//! Files that are whole or absent: written beside their place, synced, then renamed.

use crate::error::{Error, Result};
use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

static COUNTER: AtomicU64 = AtomicU64::new(0);

/// Writes `path` so that a reader sees the old content or the new one, never a part of it.
///
/// `body` fills a temporary file in the folder of `path`; it is synced, renamed over `path`, and
/// the folder is synced. A failure at any point (disk full, a panic in `body`) removes the
/// temporary file and leaves what stood at `path`.
///
/// # Errors
/// [`Error::File`] with the step that failed.
pub fn atomic_write(
    path: impl AsRef<Path>,
    body: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let path = path.as_ref();
    let temp = Temp::beside(path)?;
    let file = File::create_new(&temp.path).map_err(Error::file("create", &temp.path))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    body(&mut out).and_then(|()| out.flush()).map_err(Error::file("write", path))?;
    out.get_ref().sync_all().map_err(Error::file("sync", path))?;
    drop(out);
    fs::rename(&temp.path, path).map_err(Error::file("rename into place", path))?;
    sync_folder(folder_of(path))
}

/// The temporary file; removed on drop (after the rename there is nothing left to remove).
struct Temp {
    path: PathBuf,
}

impl Temp {
    fn beside(path: &Path) -> Result<Self> {
        let name = path.file_name().ok_or_else(|| Error::Format {
            path: path.to_path_buf(),
            found: "a path without a file name".into(),
            expected: "a file to write".into(),
            fix: "name a file".into(),
        })?;
        let n = COUNTER.fetch_add(1, Ordering::Relaxed);
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}-{n}.tmp", std::process::id()));
        let temp = Self { path: path.with_file_name(hidden) };
        // A killed process with our id may have left one: it is ours to replace.
        match fs::remove_file(&temp.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(Error::File { path: temp.path.clone(), action: "replace", source: e })
            }
            _ => Ok(temp),
        }
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|f| f.sync_all()).map_err(Error::file("sync", folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_failed_write_keeps_the_old_file_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.bin");
        atomic_write(&path, |w| w.write_all(b"old")).unwrap();
        let full = |w: &mut dyn Write| {
            w.write_all(b"ne")?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        };
        let error = atomic_write(&path, full).unwrap_err();
        assert!(matches!(error, Error::File { action: "write", .. }));
        assert!(error.to_string().contains("free some space"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(listing(dir.path()), ["a.bin"]);
    }

    #[test]
    fn what_a_killed_process_with_the_same_number_left_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let next = COUNTER.load(Ordering::Relaxed);
        for n in next..next + 100 {
            // other tests count on meanwhile
            let left = format!(".a.bin.{}-{n}.tmp", std::process::id());
            fs::write(dir.path().join(left), b"half").unwrap();
        }
        let path = dir.path().join("a.bin");
        atomic_write(&path, |w| w.write_all(b"new")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(listing(dir.path()).len(), 1 + 99);
    }

    #[test]
    fn a_folder_that_does_not_exist_is_a_file_error() {
        let dir = tempfile::tempdir().unwrap();
        let error = atomic_write(dir.path().join("no/a.bin"), |_| Ok(())).unwrap_err();
        assert!(matches!(error, Error::File { action: "create", .. }), "{error}");
    }
}
