//! Runs a case on a CUDA device and on the CPU and compares every result.
//!
//! Outputs start as NaN, every device buffer lies between guard bands, gradients are asked for together,
//! added to old content and one at a time, and the device runs everything twice.

use super::case::Case;
use crate::{
    device::{Buf, BufMut, Cuda, Device, Memory},
    error::{Error, Result},
    op::{Backward, Forward, Grad, GradMode, Signature},
    tensor::{DType, Spec, philox},
};
use std::sync::Arc;

/// How far a result may be from the CPU's, in units of the last place. All of today's device kernels
/// compute in f32, where rounding to the storage type adds no error to the rule's 2 ulp.
pub const TOLERANCE_ULP: u32 = 2;
const GUARD_BYTES: usize = 256;
const GUARD: u8 = 0xA5;
const POISON: u8 = 0xFF;

/// What came out for one case.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Every result agrees; the largest distance found.
    Agrees {
        /// In units of the last place, 0 when bit-equal.
        worst_ulp: u32,
    },
    /// A result is wrong.
    Differs {
        /// Which result, where, by how much.
        problem: String,
    },
    /// The device has no kernel for it.
    NoKernel,
}

/// One set of gradient modes and the content the gradient buffers have before.
struct Request {
    name: String,
    modes: Vec<GradMode>,
}

/// Every result of one run, as bytes: output, saved values, then gradients of each request.
type Results = Vec<(String, DType, Vec<u8>)>;

/// Compares the device with the CPU.
///
/// # Errors
/// Errors of the device; a difference is an [`Outcome`], not an error.
pub fn compare(case: &Case, cuda: &Arc<Cuda>) -> Result<Outcome> {
    let signature = case.op.infer(&case.ins)?;
    let call = Call { case, signature, inputs: case.inputs(11) };
    let first = match call.run(&Place::Cuda(cuda.clone())) {
        Err(Error::NoKernel { .. }) => return Ok(Outcome::NoKernel),
        first => first?,
    };
    let second = call.run(&Place::Cuda(cuda.clone()))?;
    for (a, b) in first.iter().zip(&second) {
        if a.2 != b.2 {
            let problem = format!("{}: two runs on the device differ", a.0);
            return Ok(Outcome::Differs { problem });
        }
    }
    let expected = call.run(&Place::Host)?;
    let mut worst_ulp = 0;
    for ((what, dtype, got), (_, _, want)) in first.iter().zip(&expected) {
        match distance(*dtype, got, want) {
            Ok(ulp) => worst_ulp = worst_ulp.max(ulp),
            Err(problem) => {
                return Ok(Outcome::Differs { problem: format!("{what}{problem}") });
            }
        }
    }
    Ok(Outcome::Agrees { worst_ulp })
}

/// The largest distance between two buffers, or where it is too large.
fn distance(dtype: DType, got: &[u8], want: &[u8]) -> std::result::Result<u32, String> {
    let mut worst = 0;
    for (i, (g, w)) in got.chunks_exact(4).zip(want.chunks_exact(4)).enumerate() {
        let bits = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        let (g, w) = (bits(g), bits(w));
        let (x, y) = (f32::from_bits(g), f32::from_bits(w));
        let ulp = match dtype {
            DType::F32 if x.is_nan() != y.is_nan() => u32::MAX,
            DType::F32 => ordered(g).abs_diff(ordered(w)),
            _ => u32::from(g != w) * u32::MAX,
        };
        if ulp > TOLERANCE_ULP {
            return Err(format!("[{i}]: found {x:e}, expected {y:e}: {ulp} ulp apart"));
        }
        worst = worst.max(ulp);
    }
    Ok(worst)
}

/// Bits of an f32 as an integer that grows with the number; both zeros are 0.
fn ordered(bits: u32) -> i32 {
    let magnitude = (bits & 0x7fff_ffff).cast_signed();
    if bits >> 31 == 1 { -magnitude } else { magnitude }
}

/// Where a run takes place.
enum Place {
    Host,
    Cuda(Arc<Cuda>),
}

/// A buffer of either place, with its content's length in bytes.
enum Store {
    Host(Vec<u64>, usize),
    Cuda(Arc<Cuda>, Memory, usize),
}

impl Place {
    fn store(&self, content: &[u8]) -> Result<Store> {
        match self {
            Place::Host => {
                let mut words = vec![0u64; content.len().div_ceil(8)];
                bytemuck::cast_slice_mut(&mut words)[..content.len()].copy_from_slice(content);
                Ok(Store::Host(words, content.len()))
            }
            Place::Cuda(cuda) => {
                let memory = cuda.alloc(content.len() + 2 * GUARD_BYTES)?;
                cuda.fill(memory.address(), memory.bytes(), GUARD)?;
                cuda.upload(memory.address() + GUARD_BYTES as u64, content)?;
                Ok(Store::Cuda(cuda.clone(), memory, content.len()))
            }
        }
    }

    fn poisoned(&self, spec: &Spec) -> Result<Store> {
        self.store(&vec![POISON; spec.bytes()])
    }

    fn device(&self) -> Device {
        match self {
            Place::Host => Device::Cpu,
            Place::Cuda(cuda) => Device::Cuda(cuda.clone()),
        }
    }
}

impl Store {
    fn read(&self) -> Buf<'_> {
        match self {
            Store::Host(words, n) => Buf::Host(&bytemuck::cast_slice(words)[..*n]),
            Store::Cuda(_, memory, n) => Buf::Device(memory.address() + GUARD_BYTES as u64, *n),
        }
    }

    fn write(&mut self) -> BufMut<'_> {
        match self {
            Store::Host(words, n) => BufMut::Host(&mut bytemuck::cast_slice_mut(words)[..*n]),
            Store::Cuda(_, memory, n) => BufMut::Device(memory.address() + GUARD_BYTES as u64, *n),
        }
    }

    /// The content; an error when a guard band was written.
    fn content(&self, what: &str) -> Result<Vec<u8>> {
        let (cuda, memory, n) = match self {
            Store::Host(words, n) => return Ok(bytemuck::cast_slice(words)[..*n].to_vec()),
            Store::Cuda(cuda, memory, n) => (cuda, memory, *n),
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

/// A case with its data.
struct Call<'a> {
    case: &'a Case,
    signature: Signature,
    inputs: Vec<Vec<u8>>,
}

impl Call<'_> {
    fn run(&self, place: &Place) -> Result<Results> {
        let ins = self.inputs.iter().map(|b| place.store(b)).collect::<Result<Vec<_>>>()?;
        let mut out = place.poisoned(&self.signature.out)?;
        let mut saved =
            self.signature.saved.iter().map(|s| place.poisoned(s)).collect::<Result<Vec<_>>>()?;
        let mut scratch = place.store(&vec![POISON; self.signature.forward_scratch])?;
        self.case.op.forward(Forward {
            device: &place.device(),
            specs: &self.case.ins,
            out_spec: &self.signature.out,
            ins: ins.iter().map(Store::read).collect(),
            out: out.write(),
            saved: saved.iter_mut().map(Store::write).collect(),
            scratch: scratch.write(),
        })?;
        scratch.content("scratch")?;
        let mut results = vec![("out".into(), self.signature.out.dtype, out.content("out")?)];
        for (store, spec) in saved.iter().zip(&self.signature.saved) {
            results.push(("saved".into(), spec.dtype, store.content("saved")?));
        }
        for request in self.requests() {
            self.backward(place, &request, (&ins, &out, &saved), &mut results)?;
        }
        for (i, store) in ins.iter().enumerate() {
            if store.content("input")? != self.inputs[i] {
                let problem = "an input was written".into();
                return Err(Error::Plan { at: self.case.name.clone(), problem });
            }
        }
        Ok(results)
    }

    /// All gradients overwritten, all added, then each alone.
    fn requests(&self) -> Vec<Request> {
        let modes = |f: &dyn Fn(usize) -> GradMode| -> Vec<GradMode> {
            let one = |(i, g): (usize, &bool)| if *g { f(i) } else { GradMode::Skip };
            self.case.grads.iter().enumerate().map(one).collect()
        };
        let wanted: Vec<usize> =
            (0..self.case.grads.len()).filter(|i| self.case.grads[*i]).collect();
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

    fn backward(
        &self,
        place: &Place,
        request: &Request,
        (ins, out, saved): (&[Store], &Store, &[Store]),
        results: &mut Results,
    ) -> Result<()> {
        let op = &self.case.op;
        let wants: Vec<bool> = request.modes.iter().map(|m| *m != GradMode::Skip).collect();
        let keeps = op.keeps(&wants);
        let d_out = place.store(&normal_bytes(12, &self.signature.out))?;
        let mut grads = vec![];
        for (mode, spec) in request.modes.iter().zip(&self.case.ins) {
            grads.push(match mode {
                GradMode::Overwrite => place.poisoned(spec)?,
                _ => place.store(&normal_bytes(13, spec))?,
            });
        }
        let mut scratch = place.store(&vec![POISON; self.signature.backward_scratch])?;
        op.backward(Backward {
            device: &place.device(),
            specs: &self.case.ins,
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
        for (i, (store, spec)) in grads.iter().zip(&self.case.ins).enumerate() {
            let what = format!("gradient {i}, {}", request.name);
            results.push((what.clone(), spec.dtype, store.content(&what)?));
        }
        Ok(())
    }
}

fn normal_bytes(seed: u64, spec: &Spec) -> Vec<u8> {
    let mut v = vec![0.0f32; spec.bytes() / 4];
    philox::fill_normal(seed, 0, &mut v);
    bytemuck::cast_slice(&v).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_units_in_the_last_place() {
        let bytes = |x: f32| x.to_le_bytes().to_vec();
        let next = |x: f32, n: u32| f32::from_bits(x.to_bits() + n);
        assert_eq!(distance(DType::F32, &bytes(1.0), &bytes(next(1.0, 2))), Ok(2));
        assert!(distance(DType::F32, &bytes(1.0), &bytes(next(1.0, 3))).is_err());
        assert_eq!(distance(DType::F32, &bytes(0.0), &bytes(-0.0)), Ok(0));
        assert!(distance(DType::F32, &bytes(f32::NAN), &bytes(1.0)).is_err());
        assert!(distance(DType::I32, &[1, 0, 0, 0], &[2, 0, 0, 0]).is_err());
    }
}
