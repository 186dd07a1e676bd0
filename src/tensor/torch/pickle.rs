//! A pickle read as data: a stack machine that builds values and has no way to call anything.

use super::value::{Element, Global, Pickle, Storage, Strided, Value};
use crate::error::{Error, Result};
use std::{collections::HashMap, path::Path};

/// The globals that are data; every other one could be code.
fn known(module: &str, name: &str) -> Option<Global> {
    use Element as E;
    let element = match name {
        "FloatStorage" => E::F32,
        "HalfStorage" => E::F16,
        "BFloat16Storage" => E::Bf16,
        "DoubleStorage" => E::F64,
        "LongStorage" => E::I64,
        "IntStorage" => E::I32,
        "ShortStorage" => E::I16,
        "CharStorage" => E::I8,
        "ByteStorage" => E::U8,
        "BoolStorage" => E::Bool,
        _ => {
            return match (module, name) {
                ("collections", "OrderedDict") => Some(Global::OrderedDict),
                ("torch._utils", "_rebuild_tensor_v2") => Some(Global::Tensor),
                ("torch._utils", "_rebuild_parameter") => Some(Global::Parameter),
                ("torch", "Size") => Some(Global::Size),
                _ => None,
            };
        }
    };
    (module == "torch").then_some(Global::Elements(element))
}

/// The machine: what is left to read, the stack, the marks on it, the memo.
struct Machine<'a> {
    path: &'a Path,
    code: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: HashMap<u64, Value>,
    /// Values copied out of lists: as many as the pickle has bytes, so that recalling one list again and again
    /// makes nothing large.
    copied: usize,
    out: Pickle,
}

/// Builds the value of the pickle `code` of the file `path`.
///
/// # Errors
/// [`Error::Format`] that names the first operation or imported name that is not data, and for a pickle that
/// is cut off or contradicts itself.
pub fn read(path: &Path, code: &[u8]) -> Result<(Pickle, Value)> {
    let (stack, marks, memo) = (vec![], vec![], HashMap::new());
    let mut m =
        Machine { path, code, at: 0, stack, marks, memo, copied: 0, out: Pickle::default() };
    loop {
        let op = m.byte()?;
        if op == b'.' {
            let value = m.pop()?;
            return Ok((m.out, value));
        }
        m.step(op)?;
    }
}

impl<'a> Machine<'a> {
    /// Runs one operation; each takes and leaves a bounded number of values.
    fn step(&mut self, op: u8) -> Result<()> {
        match op {
            0x80 => drop(self.take(1)?), // PROTO
            0x95 => drop(self.take(8)?), // FRAME
            b'(' => self.marks.push(self.stack.len()),
            b'N' => self.stack.push(Value::None),
            0x88 => self.stack.push(Value::Int(1)),
            0x89 => self.stack.push(Value::Int(0)),
            b'K' => self.integer(1)?,
            b'M' => self.integer(2)?,
            b'J' => {
                let n = self.number(4)? as u32;
                self.stack.push(Value::Int(i64::from(n.cast_signed())));
            }
            0x8a => self.long()?,
            b'G' => {
                self.take(8)?;
                self.stack.push(Value::Number);
            }
            b'X' | b'T' | b'B' => self.text(4)?,
            0x8c | b'U' | b'C' => self.text(1)?,
            0x8d => self.text(8)?,
            b'}' => self.new_dict(vec![]),
            b']' | b')' => self.new_list(vec![]),
            0x85..=0x87 => {
                let n = usize::from(op - 0x84);
                let items = self.cut(self.stack.len().checked_sub(n))?;
                self.new_list(items);
            }
            b't' | b'l' => {
                let items = self.since_mark()?;
                self.new_list(items);
            }
            b'a' => {
                let items = self.cut(self.stack.len().checked_sub(1))?;
                self.append(items)?;
            }
            b'e' => {
                let items = self.since_mark()?;
                self.append(items)?;
            }
            b's' => {
                let items = self.cut(self.stack.len().checked_sub(2))?;
                self.set_items(items)?;
            }
            b'u' => {
                let items = self.since_mark()?;
                self.set_items(items)?;
            }
            b'q' => self.remember(1)?,
            b'r' => self.remember(4)?,
            0x94 => {
                let top = self.top()?;
                self.memo.insert(self.memo.len() as u64, top);
            }
            b'h' => self.recall(1)?,
            b'j' => self.recall(4)?,
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.import(&module, &name)?;
            }
            0x93 => {
                let (name, module) = (self.pop_text()?, self.pop_text()?);
                self.import(&module, &name)?;
            }
            b'Q' => self.storage()?,
            b'R' | 0x81 => self.call()?,
            b'b' => {
                self.pop()?; // attributes of an object, such as a state dictionary's versions: not values
                self.top()?;
            }
            other => return Err(self.refused(&format!("the pickle operation {}", shown(other)))),
        }
        Ok(())
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(n);
        let Some(bytes) = end.and_then(|end| self.code.get(self.at..end)) else {
            return Err(self.odd("a pickle that is cut off"));
        };
        self.at += n;
        Ok(bytes)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn number(&mut self, len: usize) -> Result<u64> {
        Ok(self.take(len)?.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
    }

    fn integer(&mut self, len: usize) -> Result<()> {
        let n = self.number(len)?;
        self.stack.push(Value::Int(n as i64)); // at most two bytes
        Ok(())
    }

    /// LONG1: two's complement of any length; one of more than 64 bits is a number that nobody asks for.
    fn long(&mut self) -> Result<()> {
        let len = usize::from(self.byte()?);
        let bytes = self.take(len)?;
        let sign = if bytes.last().is_some_and(|b| b & 0x80 != 0) { 0xFF } else { 0 };
        let mut word = [sign; 8];
        let value = match word.get_mut(..len) {
            Some(low) => {
                low.copy_from_slice(bytes);
                Value::Int(i64::from_le_bytes(word))
            }
            None => Value::Number,
        };
        self.stack.push(value);
        Ok(())
    }

    fn text(&mut self, len: usize) -> Result<()> {
        let n = self.number(len)?;
        let n = usize::try_from(n).map_err(|_| self.odd("a text longer than the file"))?;
        let text = String::from_utf8_lossy(self.take(n)?).into_owned();
        self.stack.push(Value::Text(self.out.texts.len()));
        self.out.texts.push(text);
        Ok(())
    }

    fn line(&mut self) -> Result<String> {
        let rest = &self.code[self.at..];
        let Some(len) = rest.iter().position(|b| *b == b'\n') else {
            return Err(self.odd("a pickle that is cut off"));
        };
        self.at += len + 1;
        Ok(String::from_utf8_lossy(&rest[..len]).into_owned())
    }

    fn new_list(&mut self, items: Vec<Value>) {
        self.stack.push(Value::List(self.out.lists.len()));
        self.out.lists.push(items);
    }

    fn new_dict(&mut self, items: Vec<(Value, Value)>) {
        self.stack.push(Value::Dict(self.out.dicts.len()));
        self.out.dicts.push(items);
    }

    /// The values above the last mark, which goes.
    fn since_mark(&mut self) -> Result<Vec<Value>> {
        let from = self.marks.pop();
        self.cut(from)
    }

    /// The values from `from` on, none of which lies below a mark.
    fn cut(&mut self, from: Option<usize>) -> Result<Vec<Value>> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match from.filter(|from| *from >= floor && *from <= self.stack.len()) {
            Some(from) => Ok(self.stack.split_off(from)),
            None => Err(self.odd("a pickle that takes more than it has")),
        }
    }

    fn pop(&mut self) -> Result<Value> {
        let top = self.cut(self.stack.len().checked_sub(1))?;
        Ok(top[0])
    }

    fn top(&self) -> Result<Value> {
        self.stack.last().copied().ok_or_else(|| self.odd("a pickle that takes more than it has"))
    }

    fn append(&mut self, items: Vec<Value>) -> Result<()> {
        match self.top()? {
            Value::List(i) => self.out.lists[i].extend(items),
            _ => return Err(self.odd("a pickle that appends to what is no list")),
        }
        Ok(())
    }

    fn set_items(&mut self, items: Vec<Value>) -> Result<()> {
        match self.top()? {
            Value::Dict(i) if items.len().is_multiple_of(2) => {
                self.out.dicts[i].extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1])));
            }
            _ => return Err(self.odd("a pickle that sets items of what is no dictionary")),
        }
        Ok(())
    }

    fn remember(&mut self, len: usize) -> Result<()> {
        let (key, top) = (self.number(len)?, self.top()?);
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, len: usize) -> Result<()> {
        let key = self.number(len)?;
        match self.memo.get(&key) {
            Some(value) => self.stack.push(*value),
            None => return Err(self.odd("a pickle that recalls what it never kept")),
        }
        Ok(())
    }

    fn pop_text(&mut self) -> Result<String> {
        match self.pop()? {
            Value::Text(i) => Ok(self.out.texts[i].clone()),
            _ => Err(self.odd("a pickle that imports by what is no text")),
        }
    }

    fn import(&mut self, module: &str, name: &str) -> Result<()> {
        match known(module, name) {
            Some(global) => self.stack.push(Value::Global(global)),
            None => {
                let name: String = format!("{module}.{name}").chars().take(120).collect();
                return Err(self.refused(&name));
            }
        }
        Ok(())
    }

    /// A persistent id: `("storage", class, key, device, length)`.
    fn storage(&mut self) -> Result<()> {
        let id = self.pop()?;
        let items = self.items(id)?;
        let storage = match items[..] {
            [
                Value::Text(_),
                Value::Global(Global::Elements(element)),
                Value::Text(key),
                _,
                Value::Int(len),
            ] => Storage { element, key, len },
            _ => return Err(self.odd("a persistent id that is no storage")),
        };
        self.stack.push(Value::Storage(self.out.storages.len()));
        self.out.storages.push(storage);
        Ok(())
    }

    fn items(&mut self, list: Value) -> Result<Vec<Value>> {
        let Value::List(i) = list else {
            return Err(self.odd("a pickle with something else in place of a tuple"));
        };
        self.copied += self.out.lists[i].len();
        match self.copied <= self.code.len() {
            true => Ok(self.out.lists[i].clone()),
            false => Err(self.odd("a pickle that copies one list again and again")),
        }
    }

    fn integers(&mut self, list: Value) -> Result<Vec<i64>> {
        let whole = |v: &Value| match v {
            Value::Int(n) => Some(*n),
            _ => None,
        };
        let all: Option<Vec<i64>> = self.items(list)?.iter().map(whole).collect();
        all.ok_or_else(|| self.odd("an extent that is no integer"))
    }

    /// A known name with its arguments; these few only build values.
    fn call(&mut self) -> Result<()> {
        let (given, callee) = (self.pop()?, self.pop()?);
        let given = self.items(given)?;
        match (callee, &given[..]) {
            (Value::Global(Global::OrderedDict), []) => self.new_dict(vec![]),
            (Value::Global(Global::OrderedDict), [list]) => {
                let mut pairs = vec![];
                for pair in self.items(*list)? {
                    match self.items(pair)?[..] {
                        [key, value] => pairs.push((key, value)),
                        _ => return Err(self.odd("a dictionary of what are no pairs")),
                    }
                }
                self.new_dict(pairs);
            }
            (Value::Global(Global::Size), [Value::List(i)]) => self.stack.push(Value::List(*i)),
            (
                Value::Global(Global::Tensor),
                [Value::Storage(s), Value::Int(offset), dims, strides, ..],
            ) => {
                let (dims, strides) = (self.integers(*dims)?, self.integers(*strides)?);
                self.stack.push(Value::Tensor(self.out.tensors.len()));
                self.out.tensors.push(Strided { storage: *s, offset: *offset, dims, strides });
            }
            (Value::Global(Global::Parameter), [Value::Tensor(i), ..]) => {
                self.stack.push(Value::Tensor(*i));
            }
            (Value::Global(g), _) => {
                return Err(self.odd(&format!("{g:?} with arguments of another kind")));
            }
            _ => return Err(self.refused("a call of what is no known name")),
        }
        Ok(())
    }

    fn odd(&self, found: &str) -> Error {
        Error::Format {
            path: self.path.to_path_buf(),
            found: found.into(),
            expected: "what torch.save writes".into(),
            fix: "copy the file again, or save the weights as .safetensors".into(),
        }
    }

    fn refused(&self, what: &str) -> Error {
        Error::Format {
            path: self.path.to_path_buf(),
            found: format!("{what}, which could run code"),
            expected: "tensors, dictionaries, lists, numbers and texts only".into(),
            fix: "nothing was run; save its state_dict() alone, or as .safetensors".into(),
        }
    }
}

/// An operation by its byte, and by its letter where it has one.
fn shown(op: u8) -> String {
    match op.is_ascii_graphic() {
        true => format!("{:?} (0x{op:02x})", char::from(op)),
        false => format!("0x{op:02x}"),
    }
}
