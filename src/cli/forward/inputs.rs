//! Tensors between files and programs.

use super::{channels_first, channels_last};
use crate::{
    error::{Error, Result},
    plan::{Recorder, Value},
    tensor::{
        Spec, Tensor,
        safetensors::{Dtype, Raw, SafeFile},
    },
};

/// Values of one input, in runtime layout.
pub(super) enum Data {
    Floats(Vec<f32>),
    Ids(Vec<i32>),
}

/// One input.
pub(super) struct Feed {
    pub name: &'static str,
    pub data: Data,
    /// Whether its gradient is an output.
    pub grad: bool,
    /// Runtime dims.
    dims: Vec<usize>,
    /// Dims in the file.
    file_dims: Vec<usize>,
}

impl Feed {
    /// Its gradient as the file has it; a value that served the whole batch gets the sum.
    pub fn gradient(&self, data: Vec<f32>) -> Raw {
        let t = Tensor { dims: self.dims.clone(), data };
        let t = if self.dims.len() == 4 { channels_first(&t) } else { t };
        let length = self.file_dims.iter().product::<usize>();
        match length == t.data.len() {
            true => Raw::f32(&self.file_dims, &t.data),
            false => Raw::f32(&self.file_dims, &[t.data.iter().sum()]),
        }
    }
}

/// One output.
pub(super) struct Output {
    pub name: &'static str,
    pub value: Value,
    /// What its first axis is in the file, where that is several.
    pub lead: Option<Vec<usize>>,
}

impl Output {
    /// An output with the runtime's axes.
    pub fn new(name: &'static str, value: Value) -> Self {
        Self { name, value, lead: None }
    }

    /// Runtime data to what the file holds.
    pub fn to_file(&self, dims: &[usize], data: Vec<f32>) -> Raw {
        let t = Tensor { dims: dims.to_vec(), data };
        let t = if dims.len() == 4 { channels_first(&t) } else { t };
        Raw::f32(&self.file_dims(dims), &t.data)
    }

    /// Dims in the file for runtime dims.
    pub fn file_dims(&self, dims: &[usize]) -> Vec<usize> {
        let dims = match dims {
            [n, h, w, c] => vec![*n, *c, *h, *w],
            other => other.to_vec(),
        };
        match (&self.lead, dims.split_first()) {
            (Some(lead), Some((_, rest))) => [lead, rest].concat(),
            _ => dims,
        }
    }

    /// What the file holds to runtime data.
    pub fn runtime(&self, mut t: Tensor) -> Vec<f32> {
        if let Some(lead) = &self.lead {
            let (lead, rest) = t.dims.split_at(lead.len());
            t.dims = [&[lead.iter().product()], rest].concat();
        }
        if t.dims.len() == 4 { channels_last(&t).data } else { t.data }
    }
}

/// Reads inputs from the file into a recording.
pub(super) struct Inputs<'a> {
    pub file: &'a SafeFile,
    pub rec: Recorder,
    pub feeds: Vec<Feed>,
    /// Inputs that are read on the host.
    pub read: Vec<&'static str>,
}

impl Inputs<'_> {
    /// A number tensor; four axes are a picture and become channels-last.
    pub fn floats(&mut self, name: &'static str, axes: usize) -> Result<Value> {
        let (t, floating) = self.read(name)?;
        if t.dims.len() != axes || t.data.is_empty() {
            return Err(self.odd(name, &t.dims, &format!("{axes} axes, none empty")));
        }
        Ok(self.feed(name, t, floating))
    }

    /// One number for each of `n` pictures, or one for all.
    pub fn each(&mut self, name: &'static str, n: usize) -> Result<Value> {
        let (mut t, floating) = self.read(name)?;
        let file_dims = t.dims.clone();
        if t.data.len() != n && t.data.len() != 1 {
            return Err(self.odd(name, &t.dims, &format!("[{n}]")));
        }
        if t.data.len() == 1 {
            t.data = vec![t.data[0]; n];
        }
        t.dims = vec![n];
        let v = self.feed(name, t, floating);
        if let Some(feed) = self.feeds.last_mut() {
            feed.file_dims = file_dims;
        }
        Ok(v)
    }

    pub fn feed(&mut self, name: &'static str, t: Tensor, grad: bool) -> Value {
        let file_dims = t.dims.clone();
        let t = if t.dims.len() == 4 { channels_last(&t) } else { t };
        let spec = Spec::f32(&t.dims);
        let (dims, data) = (t.dims, Data::Floats(t.data));
        self.feeds.push(Feed { name, data, grad, dims, file_dims });
        match grad {
            true => self.rec.input_with_grad(name, spec),
            false => self.rec.input(name, spec),
        }
    }

    pub fn ids(&mut self, name: &'static str, dims: &[usize], ids: Vec<i32>) -> Value {
        let dims = dims.to_vec();
        let v = self.rec.input(name, Spec::i32(&dims));
        let file_dims = dims.clone();
        self.feeds.push(Feed { name, data: Data::Ids(ids), grad: false, dims, file_dims });
        v
    }

    /// Values as f32, and whether the file has them as floating-point numbers.
    pub fn read(&self, name: &str) -> Result<(Tensor, bool)> {
        let entry = self.file.entry(name)?;
        match entry.dtype {
            Dtype::I64 | Dtype::I32 => {
                let data = self.file.i64(name)?.into_iter().map(|v| v as f32).collect();
                Ok((Tensor { dims: entry.dims.clone(), data }, false))
            }
            _ => Ok((self.file.f32(name)?, true)),
        }
    }

    pub fn odd(&self, name: &str, got: &[usize], want: &str) -> Error {
        Error::Shape {
            at: format!("{}: {name}", self.file.path().display()),
            what: "input",
            got: got.to_vec(),
            want: want.into(),
        }
    }

    /// Token ids, each below `vocabulary`.
    pub fn token_ids(&self, name: &str, vocabulary: usize) -> Result<Vec<i32>> {
        let ids = self.file.i64(name)?;
        let known = |id: &i64| usize::try_from(*id).is_ok_and(|i| i < vocabulary);
        if let Some(bad) = ids.iter().find(|id| !known(id)) {
            return Err(Error::Data {
                at: format!("{}: {name}", self.file.path().display()),
                found: format!("token {bad}"),
                expected: format!("0 to {}", vocabulary.saturating_sub(1)),
                fix: "tokenize with this model's own tokenizer".into(),
            });
        }
        Ok(ids.into_iter().filter_map(|id| i32::try_from(id).ok()).collect())
    }

    /// Numbers made from an input of the file, which itself is no number to differentiate by.
    pub fn made(&mut self, name: &'static str, dims: &[usize], data: Vec<f32>) -> Value {
        self.feed(name, Tensor { dims: dims.to_vec(), data }, false)
    }
}
