//! The recorder: straight-line model code calls this.

use super::WeightLayout;
use crate::{
    error::{Error, Result},
    kernels::{affine::Affine, cast::Cast},
    op::{Op, Signature},
    tensor::{DType, Spec, Types},
};
use std::collections::HashMap;

/// A symbolic value: an index in a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value(pub(crate) usize);

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Class {
    /// A weight; `trainable` ones lie in the flat buffers.
    Param { layout: WeightLayout, trainable: bool },
    /// Fed by the caller; `grad` asks for its gradient.
    Input { grad: bool },
    /// Trainables that lie one behind the other in the flat buffers, as one value; the plan makes these.
    Together(Vec<usize>),
    /// A constant known while recording.
    Table(Vec<f32>),
    /// Computed.
    Temp,
}

impl Class {
    /// Whether it is trained: a parameter, or several as one.
    pub fn is_trained(&self) -> bool {
        matches!(self, Class::Param { trainable: true, .. } | Class::Together(_))
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub spec: Spec,
    pub class: Class,
    pub name: String,
    /// The value whose bytes this is a view of; itself when none.
    pub root: usize,
    /// Bytes from the start of the root's; 0 unless the plan made it a part of a joint result.
    pub offset: usize,
    /// The value whose gradient buffer its own gradient shares; itself when none. Only roots'.
    pub grad: usize,
    /// Whether it is an input that is fed once for many runs.
    pub steady: bool,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub op: Box<dyn Op>,
    pub ins: Vec<Value>,
    pub specs: Vec<Spec>,
    pub out: Value,
    pub saved: Vec<Value>,
    pub signature: Signature,
    pub scope: String,
    pub segment: Option<usize>,
    /// Whether no gradient goes back through it.
    pub detached: bool,
}

/// One parameter of a recording.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamInfo {
    /// Full name: component prefix and checkpoint name.
    pub name: String,
    /// Runtime dims.
    pub dims: Vec<usize>,
    /// How it lies in the checkpoint.
    pub layout: WeightLayout,
    /// Whether it is trained.
    pub trainable: bool,
}

type Policy = Box<dyn Fn(&str) -> bool>;

/// Records operations; shapes are checked here, so an error names the model line.
#[derive(Default)]
pub struct Recorder {
    pub(crate) slots: Vec<Slot>,
    pub(crate) nodes: Vec<Node>,
    params: HashMap<String, Value>,
    scopes: Vec<String>,
    segment: Option<usize>,
    /// Whether each segment is always computed again.
    segments: Vec<bool>,
    /// Trainables that lie one behind the other whether activations are computed again or not; the plan knows them.
    pub(crate) rows: Vec<Vec<usize>>,
    trains: Option<Policy>,
    types: Types,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Recorder({} values, {} operations)", self.slots.len(), self.nodes.len())
    }
}

impl Recorder {
    /// An empty recording.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty recording whose parameters and activations are stored as `types` say; inputs stay what their spec
    /// says, and models bring them over with [`Recorder::compute`].
    pub fn in_dtype(types: impl Into<Types>) -> Self {
        Self { types: types.into(), ..Self::default() }
    }

    /// The element type of activations and of parameters other than [`Recorder::weight`]s.
    pub fn dtype(&self) -> DType {
        self.types.values()
    }

    /// The element type of frozen weights of products.
    pub fn products(&self) -> DType {
        self.types.products()
    }

    /// What products of f32 activations round their operands to.
    pub fn rounding(&self) -> DType {
        match (self.dtype(), self.products()) {
            (DType::F32, DType::Bf16) => DType::Bf16,
            _ => DType::F32,
        }
    }

    /// `v` in the element type of activations; `v` itself when it has it.
    ///
    /// # Errors
    /// Those of [`Cast`].
    pub fn compute(&mut self, v: Value) -> Result<Value> {
        self.cast(v, self.dtype())
    }

    /// `v` as `to`; `v` itself when it is that already.
    ///
    /// # Errors
    /// Those of [`Cast`].
    pub fn cast(&mut self, v: Value, to: DType) -> Result<Value> {
        if self.spec(v).dtype == to { Ok(v) } else { self.apply(Cast { to }, &[v]) }
    }

    /// From now on parameters whose full name satisfies `f` are trained.
    pub fn train_if(&mut self, f: impl Fn(&str) -> bool + 'static) {
        self.trains = Some(Box::new(f));
    }

    fn slot(&mut self, spec: Spec, class: Class, name: String) -> Value {
        let root = self.slots.len();
        self.slots.push(Slot { spec, class, name, root, offset: 0, grad: root, steady: false });
        Value(root)
    }

    /// A value fed before each run.
    pub fn input(&mut self, name: &str, spec: Spec) -> Value {
        self.slot(spec, Class::Input { grad: false }, name.to_string())
    }

    /// Says that the input `v` stays for many runs, as a prompt does in a denoising loop. A plan without a backward pass
    /// computes what depends on such inputs and frozen weights alone once, when one of them was fed anew.
    pub fn steady(&mut self, v: Value) {
        self.slots[v.0].steady = true;
    }

    /// A value fed before each run whose gradient is wanted.
    pub fn input_with_grad(&mut self, name: &str, spec: Spec) -> Value {
        self.slot(spec, Class::Input { grad: true }, name.to_string())
    }

    /// A constant known while recording (a noise schedule); short data is a bug of the caller and padded with 0.
    pub fn table(&mut self, name: &str, dims: &[usize], mut data: Vec<f32>) -> Value {
        let spec = Spec::f32(dims);
        data.resize(spec.len(), 0.0);
        self.slot(spec, Class::Table(data), name.to_string())
    }

    /// Row indices known while recording (the first token of every picture).
    pub fn indices(&mut self, name: &str, rows: &[i32]) -> Value {
        let bits = rows.iter().map(|r| f32::from_bits(r.cast_unsigned())).collect();
        self.slot(Spec::i32(&[rows.len()]), Class::Table(bits), name.to_string())
    }

    /// The parameter `name` with runtime `dims`; recorded once, however often it is asked for.
    pub fn param(&mut self, name: &str, dims: &[usize], layout: WeightLayout) -> Value {
        self.param_as(name, dims, layout, self.dtype())
    }

    /// As [`Recorder::param`], the second operand of a linear layer or a convolution: frozen, it is stored as
    /// [`Recorder::products`] says.
    pub fn weight(&mut self, name: &str, dims: &[usize], layout: WeightLayout) -> Value {
        self.param_as(name, dims, layout, self.products())
    }

    fn param_as(
        &mut self,
        name: &str,
        dims: &[usize],
        layout: WeightLayout,
        frozen: DType,
    ) -> Value {
        if let Some(v) = self.params.get(name) {
            return *v;
        }
        let trainable = self.trains.as_ref().is_some_and(|f| f(name));
        let class = Class::Param { layout, trainable };
        let dtype = if trainable { self.dtype() } else { frozen };
        let v = self.slot(Spec::new(dims, dtype), class, name.to_string());
        self.params.insert(name.to_string(), v);
        v
    }

    /// The same bytes with other dims; shares the gradient buffer too.
    ///
    /// # Errors
    /// [`Error::Shape`] when the element counts differ.
    pub fn view(&mut self, v: Value, dims: &[usize]) -> Result<Value> {
        let slot = &self.slots[v.0];
        if slot.spec.len() != dims.iter().product::<usize>() {
            return Err(Error::Shape {
                at: self.at("view"),
                what: "value",
                got: slot.spec.dims.clone(),
                want: format!("as many elements as {dims:?}"),
            });
        }
        let slot = Slot {
            spec: slot.spec.with(dims),
            class: Class::Temp,
            name: self.here(),
            root: slot.root,
            offset: slot.offset,
            grad: slot.root,
            steady: false,
        };
        self.slots.push(slot);
        Ok(Value(self.slots.len() - 1))
    }

    /// A copy of `v` through which no gradient goes back.
    ///
    /// # Errors
    /// Those of the copy.
    pub fn detached(&mut self, v: Value) -> Result<Value> {
        let out = self.apply(Affine { scale: 1.0, shift: 0.0 }, &[v])?;
        if let Some(node) = self.nodes.last_mut() {
            node.detached = true;
        }
        Ok(out)
    }

    /// Names everything recorded inside `body`.
    ///
    /// # Errors
    /// Those of `body`.
    pub fn scope<T>(&mut self, name: &str, body: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.scopes.push(name.to_string());
        let out = body(self);
        self.scopes.pop();
        out
    }

    /// A scope whose forward steps may be repeated before its backward pass (see [`PlanOptions`]).
    ///
    /// # Errors
    /// Those of `body`.
    pub fn checkpoint<T>(
        &mut self,
        name: &str,
        body: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        self.in_segment(false, name, body)
    }

    /// A scope whose forward steps are always repeated before its backward pass: for what is cheap to compute and large
    /// to keep. Inside another segment it is a part of that one.
    ///
    /// # Errors
    /// Those of `body`.
    pub fn recompute<T>(
        &mut self,
        name: &str,
        body: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        self.in_segment(true, name, body)
    }

    fn in_segment<T>(
        &mut self,
        always: bool,
        name: &str,
        body: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let outer = self.segment;
        if outer.is_none() {
            self.segment = Some(self.segments.len());
            self.segments.push(always);
        }
        let out = self.scope(name, body);
        self.segment = outer;
        out
    }

    /// Whether `node` lies in a segment that is computed again; `all`: every segment is.
    pub(crate) fn is_repeated(&self, node: &Node, all: bool) -> bool {
        node.segment.is_some_and(|s| all || self.segments.get(s).copied().unwrap_or(false))
    }

    /// Records one operation on `ins`.
    ///
    /// # Errors
    /// Those of the operation's `infer`, with the scope in front.
    pub fn apply(&mut self, op: impl Op + 'static, ins: &[Value]) -> Result<Value> {
        let specs: Vec<Spec> = ins.iter().map(|v| self.slots[v.0].spec.clone()).collect();
        let signature = op.infer(&specs).map_err(|e| self.located(e))?;
        let scope = self.here();
        let out = self.slot(signature.out.clone(), Class::Temp, scope.clone());
        let saved = signature.saved.clone();
        let saved = saved.into_iter().map(|s| self.slot(s, Class::Temp, scope.clone())).collect();
        let (op, ins, segment, detached) = (Box::new(op), ins.to_vec(), self.segment, false);
        self.nodes.push(Node { op, ins, specs, out, saved, signature, scope, segment, detached });
        Ok(out)
    }

    /// Shape and element type of a value.
    pub fn spec(&self, v: Value) -> &Spec {
        &self.slots[v.0].spec
    }

    /// The current scope, joined with dots.
    pub fn here(&self) -> String {
        self.scopes.join(".")
    }

    /// Whether there are trainables that operations read in another type than f32.
    pub(crate) fn shadows_trainables(&self) -> bool {
        let trainable = |s: &Slot| matches!(s.class, Class::Param { trainable: true, .. });
        self.slots.iter().any(|s| trainable(s) && s.spec.dtype != DType::F32)
    }

    /// Every parameter recorded so far, in order.
    pub fn params(&self) -> Vec<ParamInfo> {
        let info = |s: &Slot| match s.class {
            Class::Param { layout, trainable } => Some(ParamInfo {
                name: s.name.clone(),
                dims: s.spec.dims.clone(),
                layout,
                trainable,
            }),
            _ => None,
        };
        self.slots.iter().filter_map(info).collect()
    }

    fn at(&self, op: &str) -> String {
        if self.scopes.is_empty() { op.into() } else { format!("{}: {op}", self.here()) }
    }

    fn located(&self, e: Error) -> Error {
        match e {
            Error::Shape { at, what, got, want } => {
                Error::Shape { at: self.at(&at), what, got, want }
            }
            Error::DType { at, got, want } => Error::DType { at: self.at(&at), got, want },
            other => other,
        }
    }
}
