//! The one error type of the crate: where, what was found, what was expected, the likely fix.

use std::path::PathBuf;

/// Result of everything fallible in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that can go wrong, each variant with the fact and the fix.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Shapes that do not fit an operation.
    #[error("{at}: {what} is {got:?}, expected {want}")]
    Shape {
        /// Scope and operation, `down.1.attn.0.to_q: linear`.
        at: String,
        /// Which operand.
        what: &'static str,
        /// The dims that came.
        got: Vec<usize>,
        /// What fits, in words.
        want: String,
    },
    /// An element type that an operation or a file reader cannot take.
    #[error("{at}: element type {got}, expected {want}")]
    DType {
        /// Where.
        at: String,
        /// The type that came.
        got: String,
        /// What fits.
        want: String,
    },
    /// Missing, unknown or mis-shaped weights of one source, all listed.
    #[error("{source_name}: {}", weight_list(missing, unknown, misshaped))]
    Weights {
        /// File or folder.
        source_name: String,
        /// Names the model needs and the source lacks.
        missing: Vec<String>,
        /// Names of the source that the model does not know.
        unknown: Vec<String>,
        /// `name: found [..], expected [..]`.
        misshaped: Vec<String>,
    },
    /// The operating system refused a file operation.
    #[error("{}: {action}: {source}{}", path.display(), io_hint(source))]
    File {
        /// The path.
        path: PathBuf,
        /// What was tried: `open`, `write`, ...
        action: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A file whose content is not what it should be.
    #[error("{}: {found}, expected {expected}; {fix}", path.display())]
    Format {
        /// The path.
        path: PathBuf,
        /// What stands there.
        found: String,
        /// What should stand there.
        expected: String,
        /// The likely fix.
        fix: String,
    },
    /// A file that is no picture, or a damaged one.
    #[error("{}: {problem}, expected a picture; {fix}", path.display())]
    Image {
        /// The path.
        path: PathBuf,
        /// What is wrong.
        problem: String,
        /// The likely fix.
        fix: String,
    },
    /// A setting (flag, configuration key) with a value that cannot be used.
    #[error("{key}: found {found}, expected {expected}; {fix}")]
    Config {
        /// Flag or key.
        key: String,
        /// What stands there.
        found: String,
        /// What may stand there.
        expected: String,
        /// The likely fix, or the nearest known name.
        fix: String,
    },
    /// Inputs (subjects, masks, tensors) that do not fit together.
    #[error("{at}: {found}, expected {expected}; {fix}")]
    Data {
        /// Where.
        at: String,
        /// What was found.
        found: String,
        /// What was expected.
        expected: String,
        /// The likely fix.
        fix: String,
    },
    /// The plan cannot be made or was asked for something it does not hold.
    #[error("plan: {at}: {problem}")]
    Plan {
        /// Value, scope or step.
        at: String,
        /// What is wrong.
        problem: String,
    },
    /// No CUDA driver library could be opened.
    #[error("{library}: {problem}; use --device cpu, or install the NVIDIA driver")]
    NoDriver {
        /// The library that was tried.
        library: String,
        /// What happened.
        problem: String,
    },
    /// The CUDA driver is older than the kernels need.
    #[error(
        "{library}: driver too old: found CUDA {found}, needed {needed}; update the NVIDIA driver, \
         or use --device cpu"
    )]
    OldDriver {
        /// The library that was opened.
        library: String,
        /// The newest CUDA version that it knows.
        found: String,
        /// The version that is needed, and the driver's own number of it.
        needed: &'static str,
    },
    /// A driver call failed.
    #[error("{call}: driver error {code} ({name})")]
    Driver {
        /// The driver function.
        call: String,
        /// Its return code.
        code: u32,
        /// The code's name.
        name: String,
    },
    /// No variant of an operation fits the device.
    #[error("{op}: no kernel for {key}; tried {tried}; use --device cpu")]
    NoKernel {
        /// The operation.
        op: &'static str,
        /// Device and shapes.
        key: String,
        /// The variants looked at, or why there is none.
        tried: String,
    },
    /// The plan does not fit into memory.
    #[error("out of memory: need {need_bytes} bytes, have {have_bytes}; largest: {largest}; {fix}")]
    OutOfMemory {
        /// What the plan needs.
        need_bytes: u64,
        /// What there is.
        have_bytes: u64,
        /// The largest buffers by scope name.
        largest: String,
        /// What would fit.
        fix: String,
    },
    /// Ctrl-C or a termination signal.
    #[error("interrupted: stopped after {done}; {fix}")]
    Interrupted {
        /// What was finished and saved.
        done: String,
        /// How to go on.
        fix: String,
    },
}

impl Error {
    /// A [`Error::File`] for `path`; for `map_err`.
    pub fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::File { path, action, source }
    }
}

fn io_hint(e: &std::io::Error) -> &'static str {
    match e.kind() {
        std::io::ErrorKind::NotFound => "; check the path",
        std::io::ErrorKind::StorageFull => {
            "; free some space and run it again (training: with --resume)"
        }
        std::io::ErrorKind::PermissionDenied => "; check the permissions",
        _ => "",
    }
}

fn weight_list(missing: &[String], unknown: &[String], misshaped: &[String]) -> String {
    let part = |what: &str, names: &[String]| match names.len() {
        0 => String::new(),
        n => {
            let more = if n > 12 { format!(", and {} more", n - 12) } else { String::new() };
            let shown = names.iter().take(12).cloned().collect::<Vec<_>>().join(", ");
            format!("{n} {what}: {shown}{more}; ")
        }
    };
    let list =
        part("missing", missing) + &part("unknown", unknown) + &part("of another shape", misshaped);
    list + "check that config.json and the weights belong together"
}
