//! One call of a case on a device or on the host: guarded buffers, poisoned outputs, every request of gradients.

use crate::{
    device::{Buf, BufMut, Cuda, Device, Memory},
    error::{Error, Result},
    kernels::case::Case,
    op::{Backward, Forward, Grad, GradMode, Signature},
    tensor::{DType, Spec},
};
use std::sync::Arc;

const GUARD_BYTES: usize = 256;
const GUARD: u8 = 0xA5;
const POISON: u8 = 0xFF;

/// One set of gradient modes and the content the gradient buffers have before.
struct Request {
    name: String,
    modes: Vec<GradMode>,
}

/// Every result of one run, as bytes: output, saved values, then gradients of each request.
pub(super) type Results = Vec<(String, DType, Vec<u8>)>;

/// Where a run takes place.
pub(super) enum Runner {
    Host,
    Cuda(Arc<Cuda>),
    /// On [`Cuda::rehearsal`], which reads and writes nothing: buffers have addresses, content is never there.
    Rehearsal(Arc<Cuda>),
}

/// A buffer of one of the places, with its content's length in bytes.
enum Store {
    Host(Vec<u64>, usize),
    Cuda(Arc<Cuda>, Memory, usize),
    Rehearsal(Memory, usize),
}

impl Runner {
    fn store(&self, content: &[u8]) -> Result<Store> {
        match self {
            Runner::Host => {
                let mut words = vec![0u64; content.len().div_ceil(8)];
                bytemuck::cast_slice_mut(&mut words)[..content.len()].copy_from_slice(content);
                Ok(Store::Host(words, content.len()))
            }
            Runner::Cuda(cuda) => {
                let memory = cuda.alloc(content.len() + 2 * GUARD_BYTES)?;
                cuda.fill(memory.address(), memory.bytes(), GUARD)?;
                cuda.upload(memory.address() + GUARD_BYTES as u64, content)?;
                Ok(Store::Cuda(cuda.clone(), memory, content.len()))
            }
            Runner::Rehearsal(cuda) => Self::room(cuda, content.len()),
        }
    }

    fn poisoned(&self, bytes: usize) -> Result<Store> {
        match self {
            Runner::Rehearsal(cuda) => Self::room(cuda, bytes),
            _ => self.store(&vec![POISON; bytes]),
        }
    }

    fn room(cuda: &Arc<Cuda>, bytes: usize) -> Result<Store> {
        Ok(Store::Rehearsal(cuda.alloc(bytes + 2 * GUARD_BYTES)?, bytes))
    }

    fn device(&self) -> Device {
        match self {
            Runner::Host => Device::Cpu,
            Runner::Cuda(cuda) | Runner::Rehearsal(cuda) => Device::Cuda(cuda.clone()),
        }
    }
}

impl Store {
    fn read(&self) -> Buf<'_> {
        match self {
            Store::Host(words, n) => Buf::Host(&bytemuck::cast_slice(words)[..*n]),
            Store::Cuda(_, memory, n) | Store::Rehearsal(memory, n) => {
                Buf::Device(memory.address() + GUARD_BYTES as u64, *n)
            }
        }
    }

    fn write(&mut self) -> BufMut<'_> {
        match self {
            Store::Host(words, n) => BufMut::Host(&mut bytemuck::cast_slice_mut(words)[..*n]),
            Store::Cuda(_, memory, n) | Store::Rehearsal(memory, n) => {
                BufMut::Device(memory.address() + GUARD_BYTES as u64, *n)
            }
        }
    }

    /// The content, nothing in a rehearsal; an error when a guard band was written.
    fn content(&self, what: &str) -> Result<Vec<u8>> {
        let (cuda, memory, n) = match self {
            Store::Host(words, n) => return Ok(bytemuck::cast_slice(words)[..*n].to_vec()),
            Store::Cuda(cuda, memory, n) => (cuda, memory, *n),
            Store::Rehearsal(..) => return Ok(vec![]),
        };
        let mut all = vec![0; memory.bytes()];
        cuda.download(memory.address(), &mut all)?;
        let (before, rest) = all.split_at(GUARD_BYTES);
        let (content, after) = rest.split_at(n);
        if before.iter().chain(after).any(|b| *b != GUARD) {
            let problem = format!("the kernel wrote outside its {n} bytes");
            return Err(Error::Plan { at: what.into(), problem });
        }
        Ok(content.to_vec())
    }
}

/// A case in one element type, with its data as bytes.
pub(super) struct Call<'a> {
    pub case: &'a Case,
    pub specs: Vec<Spec>,
    pub signature: Signature,
    pub inputs: Vec<Vec<u8>>,
    /// What the saved values hold before, where they are state.
    pub state: Option<Vec<Vec<u8>>>,
    /// Gradient of the output.
    pub d_out: Vec<u8>,
    /// What the gradient buffers hold before, where it matters.
    pub old: Vec<Vec<u8>>,
}

/// The input side of a backward call: inputs, output, saved values.
type Kept<'a> = (&'a [Store], &'a Store, &'a [Store]);

impl Call<'_> {
    pub fn run(&self, place: &Runner) -> Result<Results> {
        let ins = self.inputs.iter().map(|b| place.store(b)).collect::<Result<Vec<_>>>()?;
        let mut out = place.poisoned(self.signature.out.bytes())?;
        let mut saved = match &self.state {
            Some(state) => state.iter().map(|b| place.store(b)).collect::<Result<Vec<_>>>()?,
            None => (self.signature.saved.iter())
                .map(|s| place.poisoned(s.bytes()))
                .collect::<Result<Vec<_>>>()?,
        };
        let mut scratch = place.poisoned(self.signature.forward_scratch)?;
        self.case.op.forward(Forward {
            device: &place.device(),
            specs: &self.specs,
            out_spec: &self.signature.out,
            ins: ins.iter().map(Store::read).collect(),
            out: out.write(),
            saved: saved.iter_mut().map(Store::write).collect(),
            scratch: scratch.write(),
        })?;
        scratch.content("scratch")?;
        let mut results = vec![("out".into(), self.signature.out.dtype, out.content("out")?)];
        let comparable = !self.case.op.saves_in_own_order();
        for (store, spec) in saved.iter().zip(&self.signature.saved).filter(|_| comparable) {
            results.push(("saved".into(), spec.dtype, store.content("saved")?));
        }
        for request in requests(&self.case.grads) {
            self.backward(place, &request, (&ins, &out, &saved), &mut results)?;
        }
        let kept = !matches!(place, Runner::Rehearsal(_));
        for (i, store) in ins.iter().enumerate().filter(|_| kept) {
            if store.content("input")? != self.inputs[i] {
                let problem = "an input was written".into();
                return Err(Error::Plan { at: self.case.name.clone(), problem });
            }
        }
        Ok(results)
    }

    fn backward(
        &self,
        place: &Runner,
        request: &Request,
        (ins, out, saved): Kept<'_>,
        results: &mut Results,
    ) -> Result<()> {
        let op = &self.case.op;
        let wants: Vec<bool> = request.modes.iter().map(|m| *m != GradMode::Skip).collect();
        let keeps = op.keeps(&wants);
        let d_out = place.store(&self.d_out)?;
        let mut grads = vec![];
        for ((mode, spec), old) in request.modes.iter().zip(&self.specs).zip(&self.old) {
            grads.push(match mode {
                GradMode::Overwrite => place.poisoned(spec.bytes())?,
                _ => place.store(old)?,
            });
        }
        let mut scratch = place.poisoned(self.signature.backward_scratch)?;
        op.backward(Backward {
            device: &place.device(),
            specs: &self.specs,
            out_spec: &self.signature.out,
            ins: (ins.iter().enumerate())
                .map(|(i, s)| if keeps.ins.contains(&i) { s.read() } else { Buf::EMPTY })
                .collect(),
            out: if keeps.out { out.read() } else { Buf::EMPTY },
            saved: if keeps.saved { saved.iter().map(Store::read).collect() } else { vec![] },
            d_out: d_out.read(),
            d_ins: (grads.iter_mut().zip(&request.modes))
                .map(|(g, mode)| Grad { mode: *mode, buf: g.write() })
                .collect(),
            scratch: scratch.write(),
        })?;
        scratch.content("backward scratch")?;
        for (i, (store, spec)) in grads.iter().zip(&self.specs).enumerate() {
            let what = format!("gradient {i}, {}", request.name);
            results.push((what.clone(), spec.dtype, store.content(&what)?));
        }
        Ok(())
    }
}

/// All gradients overwritten, all added, then each alone.
fn requests(grads: &[bool]) -> Vec<Request> {
    let modes = |f: &dyn Fn(usize) -> GradMode| -> Vec<GradMode> {
        let one = |(i, g): (usize, &bool)| if *g { f(i) } else { GradMode::Skip };
        grads.iter().enumerate().map(one).collect()
    };
    let wanted: Vec<usize> = (0..grads.len()).filter(|i| grads[*i]).collect();
    if wanted.is_empty() {
        return vec![];
    }
    let mut all = vec![
        Request { name: "overwrite".into(), modes: modes(&|_| GradMode::Overwrite) },
        Request { name: "accumulate".into(), modes: modes(&|_| GradMode::Accumulate) },
    ];
    all.extend(wanted.iter().filter(|_| wanted.len() > 1).map(|only| Request {
        name: format!("only {only}"),
        modes: modes(&|i| if i == *only { GradMode::Overwrite } else { GradMode::Skip }),
    }));
    all
}
