//! A case laid out on a device to be measured: several copies of its operands, launches as graphs.

use crate::{
    device::{Buf, BufMut, Cuda, Device, Event, Graph, Memory},
    error::Result,
    kernels::case::Case,
    op::{Backward, Forward, Grad, GradMode, Signature},
    tensor::{DType, Spec, philox},
};
use std::ops::Range;
use std::sync::Arc;

/// Copies of the operands together exceed the second-level cache of an H200 (50 MB) by this much, so that
/// each launch of a rotation finds its operands in memory.
pub const COLD_BYTES: usize = 180 << 20;
const MAX_COPIES: usize = 64;
/// A graph runs about this long: the two events around it cost nothing against it.
const GRAPH_MS: f64 = 1.0;
const MAX_LAUNCHES: usize = 512;
const POISON: u8 = 0xFF;
const ALIGN: usize = 256;

/// What is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Forward.
    Forward,
    /// Backward with the gradients of these inputs.
    Backward(Vec<bool>),
}

impl Pass {
    /// `forward`, `backward`, `backward[0,2]`.
    pub fn name(&self, grads: &[bool]) -> String {
        match self {
            Pass::Forward => "forward".into(),
            Pass::Backward(wants) if wants == grads => "backward".into(),
            Pass::Backward(wants) => {
                let some: Vec<String> =
                    (0..wants.len()).filter(|i| wants[*i]).map(|i| i.to_string()).collect();
                format!("backward[{}]", some.join(","))
            }
        }
    }
}

/// Byte ranges of one copy.
#[derive(Clone, Debug)]
struct BufferLayout {
    ins: Vec<Range<usize>>,
    out: Range<usize>,
    saved: Vec<Range<usize>>,
    d_out: Range<usize>,
    grads: Vec<Range<usize>>,
    bytes: usize,
}

impl BufferLayout {
    fn new(specs: &[Spec], signature: &Signature) -> Self {
        let mut end = 0;
        let mut take = |spec: &Spec| {
            let start = end;
            end = (start + spec.bytes()).next_multiple_of(ALIGN);
            start..start + spec.bytes()
        };
        let ins = specs.iter().map(&mut take).collect();
        let out = take(&signature.out);
        let saved = signature.saved.iter().map(&mut take).collect();
        let d_out = take(&signature.out);
        let grads = specs.iter().map(&mut take).collect();
        Self { ins, out, saved, d_out, grads, bytes: end.max(ALIGN) }
    }
}

/// A case in one element type, on a device.
pub struct Bed<'a> {
    /// The case.
    pub case: &'a Case,
    /// Its specs in this element type.
    pub specs: Vec<Spec>,
    /// Its signature.
    pub signature: Signature,
    /// Whether a rotation finds nothing in the cache.
    pub cold: bool,
    cuda: Arc<Cuda>,
    device: Device,
    layout: BufferLayout,
    memory: Memory,
    scratch: Memory,
    copies: usize,
}

impl<'a> Bed<'a> {
    /// Lays the case out and runs everything once.
    ///
    /// # Errors
    /// [`crate::error::Error::DType`] where the operation does not exist in `dtype`, `NoKernel` where the
    /// device has none; those of the driver.
    pub fn new(case: &'a Case, dtype: DType, cuda: &Arc<Cuda>, emulated: bool) -> Result<Self> {
        let specs = case.specs(dtype);
        let signature = case.op.infer(&specs)?;
        let layout = BufferLayout::new(&specs, &signature);
        let wanted = COLD_BYTES.div_ceil(layout.bytes).clamp(2, MAX_COPIES);
        let fits = (cuda.mem_info()?.0 / 2 / layout.bytes).max(1);
        let copies = if emulated { 1 } else { wanted.min(fits) };
        let memory = cuda.alloc(copies * layout.bytes)?;
        let scratch_bytes = signature.forward_scratch.max(signature.backward_scratch);
        let bed = Self {
            case,
            cold: copies * layout.bytes >= COLD_BYTES,
            cuda: cuda.clone(),
            device: Device::Cuda(cuda.clone()),
            scratch: cuda.alloc(scratch_bytes.max(1))?,
            specs,
            signature,
            layout,
            memory,
            copies,
        };
        bed.fill(dtype)?;
        (0..bed.copies).try_for_each(|i| bed.run(i, &Pass::Forward))?;
        bed.cuda.synchronize()?;
        Ok(bed)
    }

    /// Poison everywhere, then the inputs and the gradient of the output in every copy.
    fn fill(&self, dtype: DType) -> Result<()> {
        let cuda = &self.cuda;
        cuda.fill(self.memory.address(), self.memory.bytes(), POISON)?;
        cuda.fill(self.scratch.address(), self.scratch.bytes(), POISON)?;
        let mut d_out = vec![0.0f32; self.signature.out.len()];
        philox::fill_normal(12, 0, &mut d_out);
        let ins = self.case.inputs(11).into_iter().zip(&self.specs);
        let mut content: Vec<(Range<usize>, Vec<u8>)> = ins
            .zip(&self.layout.ins)
            .map(|((bytes, spec), range)| match spec.dtype {
                DType::I32 => (range.clone(), bytes),
                dtype => (range.clone(), dtype.encode(&DType::F32.decode(&bytes))),
            })
            .collect();
        let state = self.case.state(&self.signature.saved, 11).unwrap_or_default();
        content.extend(self.layout.saved.iter().cloned().zip(state));
        content.push((self.layout.d_out.clone(), dtype.encode(&d_out)));
        for (range, bytes) in &content {
            cuda.upload(self.at(0, range), bytes)?;
            for i in 1..self.copies {
                cuda.copy(self.at(i, range), self.at(0, range), range.len())?;
            }
        }
        Ok(())
    }

    fn at(&self, copy: usize, range: &Range<usize>) -> u64 {
        self.memory.address() + (copy * self.layout.bytes + range.start) as u64
    }

    fn read(&self, copy: usize, range: &Range<usize>) -> Buf<'static> {
        Buf::Device(self.at(copy, range), range.len())
    }

    fn write(&self, copy: usize, range: &Range<usize>) -> BufMut<'static> {
        BufMut::Device(self.at(copy, range), range.len())
    }

    fn scratch(&self, bytes: usize) -> BufMut<'static> {
        BufMut::Device(self.scratch.address(), bytes)
    }

    /// Address of input `i`, the output, its gradient or the gradient of an input, in copy `copy`.
    pub fn operand(&self, copy: usize, which: Operand) -> u64 {
        match which {
            Operand::In(i) => self.at(copy, &self.layout.ins[i]),
            Operand::Out => self.at(copy, &self.layout.out),
            Operand::DOut => self.at(copy, &self.layout.d_out),
            Operand::Grad(i) => self.at(copy, &self.layout.grads[i]),
        }
    }

    /// One call on one copy.
    ///
    /// # Errors
    /// Those of the operation.
    pub fn run(&self, copy: usize, pass: &Pass) -> Result<()> {
        let (device, specs, out_spec) = (&self.device, &self.specs[..], &self.signature.out);
        let ins = self.layout.ins.iter().map(|r| self.read(copy, r));
        let wants = match pass {
            Pass::Forward => {
                return self.case.op.forward(Forward {
                    device,
                    specs,
                    out_spec,
                    ins: ins.collect(),
                    out: self.write(copy, &self.layout.out),
                    saved: self.layout.saved.iter().map(|r| self.write(copy, r)).collect(),
                    scratch: self.scratch(self.signature.forward_scratch),
                });
            }
            Pass::Backward(wants) => wants,
        };
        let keeps = self.case.op.keeps(wants);
        let kept = |(i, buf)| if keeps.ins.contains(&i) { buf } else { Buf::EMPTY };
        let saved = self.layout.saved.iter().map(|r| self.read(copy, r));
        let grad = |(range, wanted): (&Range<usize>, &bool)| Grad {
            mode: if *wanted { GradMode::Overwrite } else { GradMode::Skip },
            buf: self.write(copy, range),
        };
        self.case.op.backward(Backward {
            device,
            specs,
            out_spec,
            ins: ins.enumerate().map(kept).collect(),
            out: if keeps.out { self.read(copy, &self.layout.out) } else { Buf::EMPTY },
            saved: if keeps.saved { saved.collect() } else { vec![] },
            d_out: self.read(copy, &self.layout.d_out),
            d_ins: self.layout.grads.iter().zip(wants).map(grad).collect(),
            scratch: self.scratch(self.signature.backward_scratch),
        })
    }

    /// Poisons the results of `pass` in the first copy, so that [`Bed::unwritten`] sees what the next run writes.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn poison_results(&self, pass: &Pass) -> Result<()> {
        let poison = |range: &Range<usize>| self.cuda.fill(self.at(0, range), range.len(), POISON);
        match pass {
            Pass::Forward => poison(&self.layout.out),
            Pass::Backward(wants) => {
                let wanted = self.layout.grads.iter().zip(wants).filter(|(_, w)| **w);
                wanted.map(|(range, _)| range).try_for_each(poison)
            }
        }
    }

    /// Where a result of `pass` still has the poison it had before the first run.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn unwritten(&self, pass: &Pass) -> Result<Option<String>> {
        let mut results = vec![];
        match pass {
            Pass::Forward => {
                results.push(("out".to_string(), &self.layout.out, &self.signature.out))
            }
            Pass::Backward(wants) => {
                for i in (0..wants.len()).filter(|i| wants[*i]) {
                    let what = format!("gradient {i}");
                    results.push((what, &self.layout.grads[i], &self.specs[i]));
                }
            }
        }
        for (what, range, spec) in results {
            let mut bytes = vec![0; range.len()];
            self.cuda.download(self.at(0, range), &mut bytes)?;
            let size = spec.dtype.size_bytes();
            let poisoned = |element: &[u8]| element.iter().all(|b| *b == POISON);
            if let Some(i) = bytes.chunks_exact(size).position(poisoned) {
                return Ok(Some(format!("{what}[{i}] was not written")));
            }
        }
        Ok(None)
    }

    /// Captures `launches` calls, on one copy or on all in turn.
    ///
    /// # Errors
    /// Those of `call`.
    pub fn graph(
        &self,
        launches: usize,
        rotate: bool,
        call: &dyn Fn(usize) -> Result<()>,
    ) -> Result<Timed> {
        let copies = if rotate { self.copies } else { 1 };
        call(0)?; // loads what has to be loaded
        self.cuda.synchronize()?;
        let all = || (0..launches).try_for_each(|i| call(i % copies));
        let graph = self.cuda.capture(all)?;
        let (start, end) = (self.cuda.event()?, self.cuda.event()?);
        Ok(Timed { graph, start, end, launches })
    }

    /// How many launches a graph should have: enough for a millisecond, and every copy equally often.
    ///
    /// # Errors
    /// Those of `call`.
    pub fn launches(&self, emulated: bool, call: &dyn Fn(usize) -> Result<()>) -> Result<usize> {
        if emulated {
            return Ok(1);
        }
        let one = self.graph(self.copies, true, call)?;
        one.milliseconds()?;
        let ms = one.milliseconds()?.max(1e-4);
        let wanted = ((GRAPH_MS / ms).ceil() as usize).clamp(1, MAX_LAUNCHES);
        Ok(wanted.next_multiple_of(self.copies))
    }
}

/// An operand of a case.
#[derive(Clone, Copy, Debug)]
pub enum Operand {
    /// Input.
    In(usize),
    /// Output.
    Out,
    /// Gradient of the output.
    DOut,
    /// Gradient of an input.
    Grad(usize),
}

/// A graph of equal calls between two events.
pub struct Timed {
    graph: Graph,
    start: Event,
    end: Event,
    launches: usize,
}

impl Timed {
    /// Milliseconds of one call, from one run of the graph.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn milliseconds(&self) -> Result<f64> {
        self.start.record()?;
        self.graph.launch()?;
        self.end.record()?;
        Ok(f64::from(self.end.elapsed_ms_since(&self.start)?) / self.launches as f64)
    }
}

/// Times of several graphs, run in turns, the order reversed every time; the first runs are left out.
///
/// # Errors
/// Those of the driver.
pub fn in_turns(graphs: &[&Timed], warm_up: usize, iterations: usize) -> Result<Vec<Vec<f64>>> {
    let mut times = vec![vec![]; graphs.len()];
    for round in 0..warm_up + iterations {
        for i in 0..graphs.len() {
            let which = if round % 2 == 0 { i } else { graphs.len() - 1 - i };
            let ms = graphs[which].milliseconds()?;
            if round >= warm_up {
                times[which].push(ms);
            }
        }
    }
    Ok(times)
}
