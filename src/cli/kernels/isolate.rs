//! Cases in a child process: a hang, a crash or a refused launch is one line, and the rest goes on.
//!
//! The child runs the items from `--from` on and tells the parent, one JSON object a line: `ready`, `begin`
//! with the item's number, `kernel` with the name of each kernel before it is launched, `end` with the result.
//! The parent replaces a child that ends early or takes longer than the limit, and goes on after the item.

use super::super::common::note;
use crate::{
    device::Cuda,
    error::{Error, Result},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::{Duration, Instant},
};

/// Opening a device and waiting for the CPU's results, seconds at most.
const PATIENCE_SECONDS: u64 = 600;
/// A kernel that broke this many cases is left out of the rest; one that hung, at once.
const ENOUGH: usize = 3;

/// Flags of commands that run many cases.
#[derive(Clone, Debug, clap::Args)]
pub struct Isolate {
    /// Run the cases in a child process, which is replaced when one hangs or breaks it; `auto`: on a GPU.
    #[arg(long, value_enum, default_value_t = When::Auto, num_args = 0..=1, require_equals = true,
          default_missing_value = "on", value_name = "WHEN")]
    isolate: When,
    /// Time limit of a case in a child process; 20 by default, 120 on the emulated device.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// This is the child: begin with this item.
    #[arg(long, hide = true)]
    from: Option<usize>,
}

/// When to use a child process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum When {
    /// On a GPU.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// Which of the two processes this is, or that there is one only.
pub enum Role {
    /// No child process.
    Alone,
    /// Replaces children.
    Parent(Duration),
    /// Runs the items from this one on.
    Child(usize),
}

impl Isolate {
    /// The part this process plays for a `--device` word.
    pub fn role(&self, device: &str) -> Role {
        let gpu = device.starts_with("cuda");
        let wanted = self.isolate == When::On || self.isolate == When::Auto && gpu;
        match self.from {
            Some(from) => Role::Child(from),
            None if wanted => {
                let usual = if gpu { 20 } else { 120 };
                Role::Parent(Duration::from_secs(self.limit.unwrap_or(usual)))
            }
            None => Role::Alone,
        }
    }
}

/// What the parent hears of an item.
pub enum Event {
    /// Its result, as [`Teller::end`] told it.
    End(usize, Value),
    /// It has none: which kernel was launched last, and what happened.
    Broken(usize, Option<String>, String),
    /// After the last item: what [`Teller::done`] told.
    Done(Value),
}

/// The child's side: tells the parent. Without a parent it tells nobody.
#[derive(Clone, Copy)]
pub struct Teller;

impl Teller {
    /// A child that ends with its parent, and names every kernel of `cuda` before it is launched.
    pub fn new(cuda: &Cuda) -> Self {
        std::thread::spawn(|| {
            // The parent holds the other end open as long as it lives.
            let _ = std::io::stdin().read_to_end(&mut vec![]);
            std::process::exit(2);
        });
        cuda.watch(|kernel| Teller.tell(&json!({"kernel": kernel})));
        Teller.tell(&json!({"ready": true}));
        Teller
    }

    /// Item `i` begins on the device.
    pub fn begin(self, i: usize) {
        self.tell(&json!({"begin": i}));
    }

    /// Item `i` has ended with `result`; after an error the device is not used again, and the process ends.
    pub fn end(self, i: usize, result: Result<Value>) {
        match result {
            Ok(value) => self.tell(&json!({"end": i, "result": value})),
            Err(e) => {
                self.tell(&json!({"broken": i, "how": e.to_string()}));
                std::process::exit(3);
            }
        }
    }

    /// Every item has ended.
    pub fn done(self, summary: &Value) {
        self.tell(&json!({"done": summary}));
    }

    fn tell(self, line: &Value) {
        let mut stdout = std::io::stdout().lock();
        if writeln!(stdout, "{line}").and_then(|()| stdout.flush()).is_err() {
            std::process::exit(2);
        }
    }
}

/// A running child and what it writes.
struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    /// This program again, with the same arguments, from item `from` on and without some kernels.
    fn start(from: usize, left_out: &[String]) -> Result<Self> {
        let program = std::env::current_exe().map_err(Error::file("find", "this program"))?;
        let mut command = Command::new(&program);
        command.args(std::env::args_os().skip(1)).arg("--from").arg(from.to_string());
        for kernel in left_out {
            command.arg("--without-kernel").arg(kernel);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(Error::file("start", &program))?;
        let (send, lines) = channel();
        if let Some(stdout) = child.stdout.take() {
            std::thread::spawn(move || {
                let all = BufReader::new(stdout).lines().map_while(std::io::Result::ok);
                all.for_each(|line| drop(send.send(line)));
            });
        }
        Ok(Self { child, lines })
    }

    /// How it ended.
    fn status(&mut self) -> String {
        match self.child.wait() {
            Ok(status) => format!("its process ended: {status}"),
            Err(e) => e.to_string(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Why a child is replaced.
struct Break {
    item: usize,
    kernel: Option<String>,
    how: String,
    hung: bool,
}

/// Runs `items` items in children, each at most `limit` long; `hear` is called for every item once, in order.
///
/// # Errors
/// When a child cannot be started, or ends before it has begun an item: it has said why on stderr.
pub fn run(items: usize, limit: Duration, mut hear: impl FnMut(Event)) -> Result<()> {
    let (mut from, mut left_out) = (0, vec![]);
    let mut broke: BTreeMap<String, usize> = BTreeMap::new();
    while from < items {
        let mut running = Running::start(from, &left_out)?;
        let Some(b) = listen(&mut running, limit, from, &mut hear)? else { return Ok(()) };
        from = b.item + 1;
        if let Some(kernel) = &b.kernel {
            let times = broke.entry(kernel.clone()).or_default();
            *times += 1;
            if b.hung || *times >= ENOUGH {
                note(&format!("{kernel} is left out from here on"));
                left_out.push(kernel.clone());
            }
        }
        hear(Event::Broken(b.item, b.kernel, b.how));
    }
    Ok(())
}

/// Hears one child to its end; `None` when it has done everything.
fn listen(
    running: &mut Running,
    limit: Duration,
    from: usize,
    hear: &mut impl FnMut(Event),
) -> Result<Option<Break>> {
    let (mut item, mut kernel, mut next) = (None, None, from);
    let patience = Duration::from_secs(PATIENCE_SECONDS);
    let mut until = Instant::now() + patience;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let line = match running.lines.recv_timeout(left) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => {
                let how = format!("no end within {} s; stopped", limit.as_secs());
                return Ok(Some(Break { item: item.unwrap_or(next), kernel, how, hung: true }));
            }
            Err(RecvTimeoutError::Disconnected) => {
                let how = running.status();
                let Some(item) = item else { return Err(ended_early(&how)) };
                return Ok(Some(Break { item, kernel, how, hung: false }));
            }
        };
        let told: Value = serde_json::from_str(&line).unwrap_or_default();
        let number = |key: &str| told[key].as_u64().and_then(|n| usize::try_from(n).ok());
        if let Some(i) = number("begin") {
            (item, kernel, until) = (Some(i), None, Instant::now() + limit);
        } else if let Some(name) = told["kernel"].as_str() {
            kernel = Some(name.to_string());
        } else if let Some(i) = number("end") {
            hear(Event::End(i, told["result"].clone()));
            (item, next, until) = (None, i + 1, Instant::now() + patience);
        } else if let Some(item) = number("broken") {
            let how = told["how"].as_str().unwrap_or_default().to_string();
            return Ok(Some(Break { item, kernel, how, hung: false }));
        } else if told.get("done").is_some() {
            hear(Event::Done(told["done"].clone()));
            return Ok(None);
        }
    }
}

fn ended_early(how: &str) -> Error {
    Error::Config {
        key: "--isolate".into(),
        found: format!("a child that began nothing; {how}"),
        expected: "one that runs the cases".into(),
        fix: "what it said is above; --isolate=off runs the cases in this process".into(),
    }
}
