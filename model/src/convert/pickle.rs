//! Python's pickle format, read as data. Nothing is imported and nothing is called: what a pickle wants to call is kept as
//! a description ([`Node::Call`]), and only the few that PyTorch uses for tensors are understood, by the reader of
//! checkpoints.
//!
//! Source: CPython's `Lib/pickletools.py` (the opcodes), protocols 0 to 5 as far as `torch.save` writes them.

use std::collections::HashMap;

/// Index of a node.
pub(super) type Id = usize;

/// One value. Containers hold indices, so that shared and cyclic values cost nothing.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// A whole number of at most 64 bits.
    Int(i64),
    /// A number, kept for completeness of a container.
    Float(f64),
    /// Text.
    Text(String),
    /// Bytes, which no checkpoint needs.
    Bytes,
    /// A list or set.
    List(Vec<Id>),
    /// A tuple.
    Tuple(Vec<Id>),
    /// A dictionary, ordered or not.
    Dict(Vec<(Id, Id)>),
    /// A class or function, by module and name. Never looked up.
    Global(String, String),
    /// What calling the first with the second would give, and the state it would be given.
    Call(Id, Id, Option<Id>),
    /// A reference to something outside of the pickle: PyTorch's storages.
    Persistent(Id),
}

/// A pickle's values; the last one left on its stack is the root.
pub(super) struct Pickle {
    nodes: Vec<Node>,
    root: Id,
}

impl Pickle {
    /// Reads a whole pickle.
    ///
    /// # Errors
    /// In words: an unknown opcode, or a stack that does not fit.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut reader = Reader {
            bytes,
            at: 0,
            nodes: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        };
        let root = reader
            .run()
            .map_err(|what| format!("{what} at byte {} of its pickle", reader.at))?;
        Ok(Self {
            nodes: reader.nodes,
            root,
        })
    }

    /// The value that the pickle stands for.
    pub(super) fn root(&self) -> &Node {
        self.get(self.root)
    }

    /// A value by index.
    pub(super) fn get(&self, id: Id) -> &Node {
        self.nodes.get(id).unwrap_or(&Node::None)
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
}

impl<'a> Reader<'a> {
    fn run(&mut self) -> Result<Id, String> {
        loop {
            match self.take(1)?[0] {
                b'.' => return self.pop(),
                0x80 => drop(self.take(1)?),
                0x95 => drop(self.take(8)?),
                b'(' => self.marks.push(self.stack.len()),
                b'0' => drop(self.pop()?),
                b'1' => drop(self.pop_to_mark()?),
                b'2' => {
                    let top = *self.stack.last().ok_or_else(empty)?;
                    self.stack.push(top);
                }
                b'N' => self.push(Node::None),
                0x88 => self.push(Node::Bool(true)),
                0x89 => self.push(Node::Bool(false)),
                b'K' => self.int(1)?,
                b'M' => self.int(2)?,
                b'J' => {
                    let value = self.number(4)? as u32 as i32;
                    self.push(Node::Int(i64::from(value)));
                }
                0x8a => self.long()?,
                b'G' => {
                    let bytes: [u8; 8] = self.take(8)?.try_into().map_err(|_| empty())?;
                    self.push(Node::Float(f64::from_be_bytes(bytes)));
                }
                b'X' => self.text(4)?,
                0x8c => self.text(1)?,
                0x8d => self.text(8)?,
                b'U' => self.text(1)?,
                b'T' => self.text(4)?,
                b'C' => self.skip_bytes(1)?,
                b'B' => self.skip_bytes(4)?,
                0x8e | 0x96 => self.skip_bytes(8)?,
                b'}' => self.push(Node::Dict(Vec::new())),
                b']' | 0x8f => self.push(Node::List(Vec::new())),
                b')' => self.push(Node::Tuple(Vec::new())),
                b't' => {
                    let items = self.pop_to_mark()?;
                    self.push(Node::Tuple(items));
                }
                b'l' | 0x91 => {
                    let items = self.pop_to_mark()?;
                    self.push(Node::List(items));
                }
                b'd' => {
                    let items = self.pop_to_mark()?;
                    self.push(Node::Dict(pairs(&items)?));
                }
                count @ 0x85..=0x87 => {
                    let count = usize::from(count - 0x84);
                    let from = self.stack.len().checked_sub(count).ok_or_else(empty)?;
                    let items = self.stack.split_off(from);
                    self.push(Node::Tuple(items));
                }
                b'a' => {
                    let item = self.pop()?;
                    self.append(vec![item])?;
                }
                b'e' | 0x90 => {
                    let items = self.pop_to_mark()?;
                    self.append(items)?;
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.set(vec![(key, value)])?;
                }
                b'u' => {
                    let items = self.pop_to_mark()?;
                    self.set(pairs(&items)?)?;
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.push(Node::Global(module, name));
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    match (&self.nodes[module], &self.nodes[name]) {
                        (Node::Text(module), Node::Text(name)) => {
                            let node = Node::Global(module.clone(), name.clone());
                            self.push(node);
                        }
                        _ => return Err("a class without a name".into()),
                    }
                }
                b'R' | 0x81 => {
                    let (arguments, callable) = (self.pop()?, self.pop()?);
                    self.call(callable, arguments);
                }
                0x92 => {
                    let (_, arguments, callable) = (self.pop()?, self.pop()?, self.pop()?);
                    self.call(callable, arguments);
                }
                b'b' => {
                    let state = self.pop()?;
                    let top = *self.stack.last().ok_or_else(empty)?;
                    if let Node::Call(_, _, slot) = &mut self.nodes[top] {
                        *slot = Some(state);
                    }
                }
                b'Q' => {
                    let id = self.pop()?;
                    self.push(Node::Persistent(id));
                }
                b'q' => {
                    let key = self.number(1)?;
                    self.remember(key)?;
                }
                b'r' => {
                    let key = self.number(4)?;
                    self.remember(key)?;
                }
                0x94 => {
                    let key = self.memo.len() as u64;
                    self.remember(key)?;
                }
                b'h' => {
                    let key = self.number(1)?;
                    self.recall(key)?;
                }
                b'j' => {
                    let key = self.number(4)?;
                    self.recall(key)?;
                }
                other => return Err(format!("unknown pickle opcode 0x{other:02x}")),
            }
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(count);
        let bytes = end.and_then(|end| self.bytes.get(self.at..end));
        let bytes = bytes.ok_or_else(|| "unexpected end".to_owned())?;
        self.at += count;
        Ok(bytes)
    }

    fn number(&mut self, width: usize) -> Result<u64, String> {
        let bytes = self.take(width)?;
        Ok(bytes
            .iter()
            .rev()
            .fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    fn int(&mut self, width: usize) -> Result<(), String> {
        let value = self.number(width)?;
        self.push(Node::Int(value as i64));
        Ok(())
    }

    fn long(&mut self) -> Result<(), String> {
        let width = self.number(1)? as usize;
        let bytes = self.take(width)?;
        if width > 8 {
            // Seeds and the like: no size of a tensor.
            self.push(Node::None);
            return Ok(());
        }
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let fill = if negative { -1i64 } else { 0 };
        let value = bytes
            .iter()
            .rev()
            .fold(fill, |value, &byte| value << 8 | i64::from(byte));
        self.push(Node::Int(value));
        Ok(())
    }

    fn text(&mut self, width: usize) -> Result<(), String> {
        let length = self.number(width)?;
        let bytes = self.take(usize::try_from(length).map_err(|_| empty())?)?;
        self.push(Node::Text(String::from_utf8_lossy(bytes).into_owned()));
        Ok(())
    }

    fn skip_bytes(&mut self, width: usize) -> Result<(), String> {
        let length = self.number(width)?;
        self.take(usize::try_from(length).map_err(|_| empty())?)?;
        self.push(Node::Bytes);
        Ok(())
    }

    fn line(&mut self) -> Result<String, String> {
        let rest = &self.bytes[self.at.min(self.bytes.len())..];
        let length = rest.iter().position(|&byte| byte == b'\n').ok_or_else(empty)?;
        let line = String::from_utf8_lossy(&rest[..length]).into_owned();
        self.at += length + 1;
        Ok(line)
    }

    fn push(&mut self, node: Node) {
        self.nodes.push(node);
        self.stack.push(self.nodes.len() - 1);
    }

    fn pop(&mut self) -> Result<Id, String> {
        self.stack.pop().ok_or_else(empty)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or_else(empty)?;
        if mark > self.stack.len() {
            return Err(empty());
        }
        Ok(self.stack.split_off(mark))
    }

    fn append(&mut self, items: Vec<Id>) -> Result<(), String> {
        let top = *self.stack.last().ok_or_else(empty)?;
        if let Node::List(list) = &mut self.nodes[top] {
            list.extend(items);
        }
        Ok(())
    }

    fn set(&mut self, items: Vec<(Id, Id)>) -> Result<(), String> {
        let top = *self.stack.last().ok_or_else(empty)?;
        if let Node::Dict(dict) = &mut self.nodes[top] {
            dict.extend(items);
        }
        Ok(())
    }

    fn call(&mut self, callable: Id, arguments: Id) {
        let is_dict = matches!(&self.nodes[callable], Node::Global(module, name)
            if module == "collections" && matches!(name.as_str(), "OrderedDict" | "defaultdict"));
        self.push(if is_dict {
            Node::Dict(Vec::new())
        } else {
            Node::Call(callable, arguments, None)
        });
    }

    fn remember(&mut self, key: u64) -> Result<(), String> {
        let top = *self.stack.last().ok_or_else(empty)?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u64) -> Result<(), String> {
        let id = *self.memo.get(&key).ok_or_else(empty)?;
        self.stack.push(id);
        Ok(())
    }
}

fn empty() -> String {
    "a value is missing".to_owned()
}

fn pairs(items: &[Id]) -> Result<Vec<(Id, Id)>, String> {
    let (pairs, rest) = items.as_chunks::<2>();
    if rest.is_empty() {
        Ok(pairs.iter().map(|&[key, value]| (key, value)).collect())
    } else {
        Err("a key without a value".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(pickle: &Pickle, id: Id) -> &str {
        match pickle.get(id) {
            Node::Text(text) => text,
            other => panic!("{other:?}"),
        }
    }

    /// `{'a': [1, -2], 'b': ('x', None)}`, protocol 2, with the memo's opcodes.
    #[test]
    fn plain_values_are_read() {
        let bytes = b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01J\xfe\xff\xff\xffeX\x01\x00\x00\x00bq\x03X\x01\x00\x00\x00xq\x04N\x86q\x05u.";
        let pickle = Pickle::read(bytes).unwrap();
        let Node::Dict(items) = pickle.root() else {
            panic!()
        };
        assert_eq!(
            items
                .iter()
                .map(|&(key, _)| text(&pickle, key))
                .collect::<Vec<_>>(),
            ["a", "b"]
        );
        let Node::List(numbers) = pickle.get(items[0].1) else {
            panic!()
        };
        let numbers: Vec<&Node> = numbers.iter().map(|&id| pickle.get(id)).collect();
        assert_eq!(numbers, [&Node::Int(1), &Node::Int(-2)]);
    }

    /// `os.system("true")`: kept as a description.
    #[test]
    fn a_call_is_only_described() {
        let pickle = Pickle::read(b"cos\nsystem\n(X\x04\x00\x00\x00truetR.").unwrap();
        let &Node::Call(callable, arguments, None) = pickle.root() else {
            panic!()
        };
        assert_eq!(pickle.get(callable), &Node::Global("os".into(), "system".into()));
        assert!(matches!(pickle.get(arguments), Node::Tuple(items) if items.len() == 1));
    }

    #[test]
    fn every_truncation_and_every_changed_byte_ends_in_an_answer() {
        let whole = b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01J\xfe\xff\xff\xffeX\x01\x00\x00\x00bX\x01\x00\x00\x00xN\x86X\x01\x00\x00\x00ccos\nf\n)Ru.";
        assert!(Pickle::read(whole).is_ok());
        for length in 0..whole.len() {
            assert!(Pickle::read(&whole[..length]).is_err(), "{length}");
        }
        for at in 0..whole.len() {
            for value in 0..=255 {
                let mut changed = whole.to_vec();
                changed[at] = value;
                // Whatever it says: no panic, and nothing but data.
                let _ = Pickle::read(&changed);
            }
        }
    }
}
