//! `log.csv`: one line a step, cut back to the checkpoint on resume.

use crate::error::{Error, Result};
use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

const HEAD: &str = "step,loss,learning_rate,grad_norm,seconds,mixed";

/// One step, as it is logged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// Steps done, counted from 1.
    pub step: u64,
    /// The loss of the step, averaged over the accumulated batches.
    pub loss: f32,
    /// The learning rate it used.
    pub learning_rate: f32,
    /// The norm of the gradient before clipping.
    pub grad_norm: f32,
    /// Wall time of the step.
    pub seconds: f32,
    /// How many samples of the step were mixes.
    pub mixed: usize,
    /// Parts of the loss and what else a decoupled run shows, averaged likewise, then the scale of the loss where it has
    /// one and whether the update was skipped; as many as the log's further columns.
    pub parts: Vec<(String, f32)>,
}

/// The open log.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
}

/// The part of an old log that belongs to the first `step` steps.
fn kept(text: &str, step: u64, columns: &[String]) -> String {
    let mut out = [&[HEAD.to_string()], columns].concat().join(",") + "\n";
    for line in text.lines().skip(1) {
        let number = line.split(',').next().and_then(|s| s.parse::<u64>().ok());
        match number {
            Some(n) if n <= step && line.split(',').count() == 6 + columns.len() => {
                out += &format!("{line}\n")
            }
            _ => break,
        }
    }
    out
}

impl Log {
    /// Opens `path` for the steps after `step`: later lines (and a line cut in the middle) are removed. `columns` are
    /// those of the rows' parts.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn open(path: &Path, step: u64, columns: &[String]) -> Result<Self> {
        let old = if step == 0 { String::new() } else { read(path)? };
        let temporary = path.with_extension("csv.tmp");
        let kept = kept(&old, step, columns);
        std::fs::write(&temporary, kept).map_err(Error::file("write", &temporary))?;
        std::fs::rename(&temporary, path).map_err(Error::file("replace", path))?;
        let file = OpenOptions::new().append(true).open(path).map_err(Error::file("open", path))?;
        Ok(Self { path: path.into(), file })
    }

    /// Appends one row in one write.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn row(&mut self, r: &Row) -> Result<()> {
        let mut line = format!(
            "{},{},{},{},{:.4},{}",
            r.step, r.loss, r.learning_rate, r.grad_norm, r.seconds, r.mixed
        );
        r.parts.iter().for_each(|(_, value)| line += &format!(",{value}"));
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(Error::file("write", &self.path))
    }

    /// Forces what was written to the disk; called before a checkpoint that counts on it.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn sync(&mut self) -> Result<()> {
        self.file.sync_data().map_err(Error::file("sync", &self.path))
    }
}

fn read(path: &Path) -> Result<String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(e) => Err(Error::file("read", path)(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resuming_cuts_the_log_back_and_appends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.csv");
        let mut log = Log::open(&path, 0, &[]).unwrap();
        for step in 1..=5 {
            log.row(&Row { step, loss: 0.5, mixed: 1, ..Row::default() }).unwrap();
        }
        std::fs::write(&path, std::fs::read_to_string(&path).unwrap() + "6,0.1").unwrap();
        let mut log = Log::open(&path, 3, &[]).unwrap();
        log.row(&Row { step: 4, ..Row::default() }).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let steps: Vec<&str> = text.lines().map(|l| l.split(',').next().unwrap()).collect();
        assert_eq!(steps, ["step", "1", "2", "3", "4"]);
        assert!(text.ends_with("4,0,0,0,0.0000,0\n"), "{text}");
    }

    #[test]
    fn a_line_that_is_not_whole_is_dropped_wherever_it_stands() {
        let first = format!("{HEAD}\n1,0.5,1,1,0.1,0\n");
        assert_eq!(kept(&format!("{first}2,0.5,1"), 3, &[]), first);
        let more = ["loss_scale".to_string()];
        assert_eq!(kept(&first, 3, &more), format!("{HEAD},loss_scale\n"));
    }
}
