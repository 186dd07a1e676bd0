//! What a pickle of tensors builds.

/// A value; what holds others is an index into [`Pickle`]'s lists, so that no value owns another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// `None`.
    None,
    /// A number that is no integer, or one that does not fit 64 bits: never asked for.
    Number,
    /// An integer or a truth value.
    Int(i64),
    /// Text, by index.
    Text(usize),
    /// A tuple or a list, by index.
    List(usize),
    /// A dictionary, by index.
    Dict(usize),
    /// A name that was imported.
    Global(Global),
    /// A storage.
    Storage(usize),
    /// A tensor, by index.
    Tensor(usize),
}

/// What a pickle may import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Global {
    /// `collections.OrderedDict`.
    OrderedDict,
    /// `torch._utils._rebuild_tensor_v2`.
    Tensor,
    /// `torch._utils._rebuild_parameter`.
    Parameter,
    /// `torch.Size`.
    Size,
    /// A storage class with elements of this type.
    Elements(Element),
}

/// Element types of storages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// 32-bit float.
    F32,
    /// IEEE half.
    F16,
    /// bfloat16.
    Bf16,
    /// 64-bit float.
    F64,
    /// 64-bit integer.
    I64,
    /// 32-bit integer.
    I32,
    /// 16-bit integer.
    I16,
    /// 8-bit integer.
    I8,
    /// Byte.
    U8,
    /// Truth value, a byte.
    Bool,
}

/// A storage: an entry of the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storage {
    /// Type of its elements.
    pub element: Element,
    /// Name of its entry, a text.
    pub key: usize,
    /// How many elements it says it has.
    pub len: i64,
}

/// A strided view of a storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strided {
    /// Index of the storage.
    pub storage: usize,
    /// First element.
    pub offset: i64,
    /// Extents.
    pub dims: Vec<i64>,
    /// Steps between neighbours along each axis, elements.
    pub strides: Vec<i64>,
}

/// Everything that one pickle built.
#[derive(Debug, Default)]
pub struct Pickle {
    /// Texts.
    pub texts: Vec<String>,
    /// Tuples and lists.
    pub lists: Vec<Vec<Value>>,
    /// Dictionaries in their order.
    pub dicts: Vec<Vec<(Value, Value)>>,
    /// Storages.
    pub storages: Vec<Storage>,
    /// Tensors.
    pub tensors: Vec<Strided>,
}
