//! Checkpoints: everything a run needs to go on bit for bit, never half-written.
//!
//! `checkpoints/step-00000200/` holds `state.bin` (the flat buffers, f32 little-endian) and `manifest.json`, written
//! last, which also says where the scale of the loss stands. The folder is made under a temporary name, synced, then renamed. Random numbers are addressed by step,
//! so no generator state exists.

use crate::{
    error::{Error, Result},
    kernels::adamw::Scale,
    tensor::DType,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    fs::{self, File},
    io::Write,
    ops::Range,
    path::{Path, PathBuf},
};

/// The state between two steps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Optimizer steps done.
    pub step: u64,
    /// Where the scale of the loss stands, where it has one.
    pub scale: Option<Scale>,
    /// Trainables, flat.
    pub master: Vec<f32>,
    /// First moments.
    pub first: Vec<f32>,
    /// Second moments.
    pub second: Vec<f32>,
    /// Moving average; empty when off.
    pub average: Vec<f32>,
}

/// `manifest.json`: what `state.bin` holds, and its checksum.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Manifest {
    format: String,
    step: u64,
    /// SHA-256 of the configuration keys that change the result.
    config: String,
    /// Element type of the run (`--dtype`); empty in a checkpoint that does not say.
    #[serde(default)]
    dtype: String,
    /// Where the scale of the loss stands; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    loss_scale: Option<Scale>,
    /// Elements of each of the flat buffers, and whether the average follows.
    elements: usize,
    average: bool,
    /// Trainables in order, with their place.
    names: Vec<(String, usize, usize)>,
    sha256: String,
}

const FORMAT: &str = "selvedge training state 1";

/// The checkpoints of one run.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    folder: PathBuf,
    keep: usize,
    config: String,
    dtype: String,
    names: Vec<(String, Range<usize>)>,
}

/// Lower-case hexadecimal SHA-256.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Whether a loss can have this scale after `step` steps.
fn could_be(scale: &Scale, step: u64) -> bool {
    let Scale { value, good, skipped, in_a_row } = *scale;
    let counts = u64::from(good.max(skipped)) <= step && in_a_row <= skipped;
    counts && value.is_finite() && value > 0.0
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = File::create(path).map_err(Error::file("create", path))?;
    file.write_all(bytes).map_err(Error::file("write", path))?;
    file.sync_all().map_err(Error::file("sync", path))
}

fn sync_folder(path: &Path) -> Result<()> {
    File::open(path).and_then(|f| f.sync_all()).map_err(Error::file("sync", path))
}

impl Checkpoints {
    /// The checkpoints in `folder`; at least one is kept. `config` is the hash of the configuration, `names` the
    /// flat layout.
    pub fn new(folder: &Path, keep: usize, config: &str, names: &[(String, Range<usize>)]) -> Self {
        let (folder, keep) = (folder.to_path_buf(), keep.max(1));
        let dtype = String::new();
        Self { folder, keep, config: config.into(), dtype, names: names.to_vec() }
    }

    /// The same of a run whose element type is `dtype`: another one would go on with other numbers.
    pub fn in_dtype(self, dtype: DType) -> Self {
        Self { dtype: dtype.to_string(), ..self }
    }

    /// Steps of the checkpoints that exist, oldest first.
    pub fn steps(&self) -> Vec<u64> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let number = |name: std::ffi::OsString| name.to_str()?.strip_prefix("step-")?.parse().ok();
        let mut steps: Vec<u64> = entries.filter_map(|e| number(e.file_name())).collect();
        steps.sort_unstable();
        steps
    }

    fn path(&self, step: u64) -> PathBuf {
        self.folder.join(format!("step-{step:08}"))
    }

    /// Writes a checkpoint and removes those beyond the number to keep. On any failure the older ones stay.
    ///
    /// # Errors
    /// [`Error::File`], a full disk included; nothing half-written stays under a checkpoint's name.
    pub fn save(&self, state: &State) -> Result<PathBuf> {
        fs::create_dir_all(&self.folder).map_err(Error::file("create", &self.folder))?;
        let (temporary, path) = (self.folder.join(".unfinished"), self.path(state.step));
        let damaged = match path.exists().then(|| self.read(&path)) {
            None => false,
            Some(Err(Error::Format { .. } | Error::File { .. })) => true, // passed over on resume
            Some(_) => return Ok(path), // the same step of the same run holds the same bits
        };
        let made = self.write(&temporary, state).and_then(|()| {
            if damaged {
                fs::remove_dir_all(&path).map_err(Error::file("remove", &path))?;
            }
            fs::rename(&temporary, &path).map_err(Error::file("rename", &temporary))?;
            sync_folder(&self.folder)
        });
        if let Err(e) = made {
            let _ = fs::remove_dir_all(&temporary);
            return Err(e);
        }
        let steps = self.steps();
        for old in &steps[..steps.len().saturating_sub(self.keep)] {
            let old = self.path(*old);
            fs::remove_dir_all(&old).map_err(Error::file("remove", &old))?;
        }
        Ok(path)
    }

    fn write(&self, temporary: &Path, state: &State) -> Result<()> {
        if temporary.exists() {
            fs::remove_dir_all(temporary).map_err(Error::file("remove", temporary))?;
        }
        fs::create_dir(temporary).map_err(Error::file("create", temporary))?;
        let parts = [&state.master, &state.first, &state.second, &state.average];
        let mut bytes = Vec::with_capacity(parts.iter().map(|p| p.len() * 4).sum());
        for value in parts.into_iter().flatten() {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        let manifest = Manifest {
            format: FORMAT.into(),
            step: state.step,
            config: self.config.clone(),
            dtype: self.dtype.clone(),
            loss_scale: state.scale,
            elements: state.master.len(),
            average: !state.average.is_empty(),
            names: self.names.iter().map(|(n, r)| (n.clone(), r.start, r.end)).collect(),
            sha256: sha256(&bytes),
        };
        let text = serde_json::to_string(&manifest).unwrap_or_default();
        write_synced(&temporary.join("state.bin"), &bytes)?;
        write_synced(&temporary.join("manifest.json"), text.as_bytes())?;
        sync_folder(temporary)
    }

    /// The newest checkpoint that is whole, `None` when there is none, and what is wrong with newer ones, which are passed over.
    ///
    /// # Errors
    /// [`Error::Config`] when the newest whole one belongs to another configuration; [`Error::Format`] when
    /// there are checkpoints, but every one is damaged.
    pub fn latest(&self) -> Result<(Option<State>, Vec<Error>)> {
        let mut damaged = vec![];
        for step in self.steps().into_iter().rev() {
            match self.read(&self.path(step)) {
                Ok(state) => return Ok((Some(state), damaged)),
                Err(e @ Error::Config { .. }) => return Err(e),
                Err(e) => damaged.push(e),
            }
        }
        damaged.into_iter().next().map_or(Ok((None, vec![])), Err)
    }

    fn read(&self, path: &Path) -> Result<State> {
        let bad = |file: &str, found: String, expected: &str| Error::Format {
            path: path.join(file),
            found,
            expected: expected.into(),
            fix: "remove this checkpoint; an older one is used then".into(),
        };
        let read = |name: &str| {
            let file = path.join(name);
            fs::read(&file).map_err(Error::file("read", file))
        };
        let manifest: Manifest = serde_json::from_slice(&read("manifest.json")?)
            .map_err(|e| bad("manifest.json", e.to_string(), FORMAT))?;
        let bytes = read("state.bin")?;
        if manifest.format != FORMAT || sha256(&bytes) != manifest.sha256 {
            return Err(bad("state.bin", "another checksum".into(), "that of the manifest"));
        }
        let moves = moves(&manifest.names, &self.names);
        let Some(moves) = moves.filter(|_| manifest.config == self.config) else {
            return Err(Error::Config {
                key: "--resume".into(),
                found: format!("a configuration other than that of {}", path.display()),
                expected: "the configuration the run was started with".into(),
                fix: "give the config.toml of the run folder, or another --out".into(),
            });
        };
        let said = !manifest.dtype.is_empty() && !self.dtype.is_empty();
        if said && manifest.dtype != self.dtype {
            return Err(Error::Config {
                key: "--dtype".into(),
                found: self.dtype.clone(),
                expected: format!("{}, as in {}", manifest.dtype, path.display()),
                fix: format!("go on with --dtype {}, or take another --out", manifest.dtype),
            });
        }
        let n = manifest.elements;
        let parts = 3 + usize::from(manifest.average);
        if n.checked_mul(4 * parts) != Some(bytes.len()) {
            return Err(bad("state.bin", format!("{} bytes", bytes.len()), "the manifest's size"));
        }
        let (scale, step) = (manifest.loss_scale, manifest.step);
        if let Some(s) = scale.filter(|s| !could_be(s, step)) {
            return Err(bad("manifest.json", format!("{s:?}"), "a scale after that many steps"));
        }
        let values: Vec<f32> =
            bytes.as_chunks().0.iter().map(|b: &[u8; 4]| f32::from_le_bytes(*b)).collect();
        let part = |i: usize| arranged(values.get(i * n..(i + 1) * n).unwrap_or_default(), &moves);
        let (master, first, second, average) = (part(0), part(1), part(2), part(3));
        Ok(State { step, scale, master, first, second, average })
    }
}

/// Where each trainable lay and where it lies now: the order is the plan's, which joins layers. `None` when they are not the
/// same trainables.
fn moves(
    from: &[(String, usize, usize)],
    to: &[(String, Range<usize>)],
) -> Option<Vec<(Range<usize>, Range<usize>)>> {
    let old: HashMap<&str, Range<usize>> =
        from.iter().map(|(name, start, end)| (name.as_str(), *start..*end)).collect();
    let one = |(name, now): &(String, Range<usize>)| {
        let was = old.get(name.as_str()).filter(|was| was.len() == now.len())?;
        Some((was.clone(), now.clone()))
    };
    if from.len() == to.len() { to.iter().map(one).collect() } else { None }
}

/// `flat` with every stretch in its new place; padding is 0.
fn arranged(flat: &[f32], moves: &[(Range<usize>, Range<usize>)]) -> Vec<f32> {
    let mut out = vec![0.0; flat.len()];
    for (was, now) in moves {
        if let (Some(from), Some(to)) = (flat.get(was.clone()), out.get_mut(now.clone())) {
            to.copy_from_slice(from);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trainables_in_another_order_return_to_their_own_places() {
        let folder = tempfile::tempdir().unwrap();
        checkpoints(folder.path(), "x").save(&state(1)).unwrap();
        let at = |names: &[(String, Range<usize>)]| {
            Checkpoints::new(folder.path(), 2, "x", names).latest().map(|(state, _)| state)
        };
        let turned = at(&[("b".into(), 0..4), ("a".into(), 4..7)]).unwrap().unwrap();
        let old = state(1);
        assert_eq!(turned.master, [&old.master[3..], &old.master[..3]].concat());
        assert_eq!(turned.second, [&old.second[3..], &old.second[..3]].concat());
        assert!(at(&[("b".into(), 0..3), ("a".into(), 3..7)]).is_err(), "other lengths");
        assert!(at(&[("c".into(), 0..4), ("a".into(), 4..7)]).is_err(), "another name");
    }

    fn state(step: u64) -> State {
        let v = |k: f32| (0..7).map(|i| k * i as f32 + step as f32).collect::<Vec<_>>();
        let scale = Scale { value: 1024.0, good: 0, skipped: 1, in_a_row: 1 };
        let (master, first, second) = (v(0.1), v(0.2), v(0.3));
        State { step, scale: Some(scale), master, first, second, average: vec![] }
    }

    fn newest(c: &Checkpoints) -> Option<State> {
        let (state, damaged) = c.latest().unwrap();
        assert!(damaged.is_empty(), "{damaged:?}");
        state
    }

    fn checkpoints(folder: &Path, config: &str) -> Checkpoints {
        Checkpoints::new(folder, 2, config, &[("a".into(), 0..3), ("b".into(), 3..7)])
    }

    #[test]
    fn the_newest_state_returns_bit_for_bit_and_old_ones_go() {
        let folder = tempfile::tempdir().unwrap();
        let c = checkpoints(folder.path(), "x");
        assert_eq!(newest(&c), None);
        for step in [1, 2, 3] {
            c.save(&state(step)).unwrap();
        }
        assert_eq!(c.steps(), [2, 3]);
        assert_eq!(newest(&c), Some(state(3)));
    }

    #[test]
    fn a_damaged_or_unfinished_checkpoint_falls_back_to_the_last_good_one() {
        let folder = tempfile::tempdir().unwrap();
        let c = checkpoints(folder.path(), "x");
        c.save(&state(1)).unwrap();
        let path = c.save(&state(2)).unwrap();
        let bytes = fs::read(path.join("state.bin")).unwrap();
        fs::write(path.join("state.bin"), &bytes[..bytes.len() - 1]).unwrap();
        fs::create_dir(folder.path().join(".unfinished")).unwrap();
        let passes_over = |file: &str| {
            let (found, damaged) = c.latest().unwrap();
            assert_eq!(found, Some(state(1)));
            assert_eq!(damaged.len(), 1);
            let told = damaged[0].to_string();
            assert!(told.contains(&path.join(file).display().to_string()), "{told}");
        };
        passes_over("state.bin");
        fs::remove_file(path.join("manifest.json")).unwrap();
        passes_over("manifest.json");
        // the run that went on from there writes it again
        c.save(&state(2)).unwrap();
        assert_eq!(newest(&c), Some(state(2)));
        c.save(&state(3)).unwrap();
        assert_eq!(newest(&c), Some(state(3)));
    }

    #[test]
    fn another_configuration_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        checkpoints(folder.path(), "x").save(&state(1)).unwrap();
        let e = checkpoints(folder.path(), "y").latest().unwrap_err();
        assert!(e.to_string().contains("config.toml of the run folder"), "{e}");
    }

    #[test]
    fn a_checkpoint_that_cannot_be_written_leaves_the_last_one() {
        let folder = tempfile::tempdir().unwrap();
        let c = checkpoints(folder.path(), "x");
        c.save(&state(1)).unwrap();
        fs::write(folder.path().join(".unfinished"), "a file where the folder should be").unwrap();
        assert!(c.save(&state(2)).is_err());
        assert_eq!(newest(&c), Some(state(1)));
    }
}
