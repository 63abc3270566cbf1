//! How words begin: all spellings of a vocabulary as one tree, so that a search knows when what it spells can become none of them.

/// Behind what no word begins with.
pub(crate) const NOWHERE: u32 = u32::MAX;
/// Before the first letter.
pub(crate) const WORD_BEGINS: u32 = 0;

/// A tree of bytes. The children of a node lie side by side, sorted by their byte.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Spellings {
    bytes: Vec<u8>,
    /// Of each node the first of its children; those of the next node begin where they end.
    first_child: Vec<u32>,
}

impl Spellings {
    pub(crate) fn new<'a>(words: impl Iterator<Item = &'a str>) -> Self {
        let mut words: Vec<&[u8]> = words.map(str::as_bytes).collect();
        words.sort_unstable();
        // Nodes are numbered by their depth, so that brothers are neighbours.
        let (mut bytes, mut first_child) = (vec![0], Vec::new());
        let mut level: Vec<&[&[u8]]> = vec![&words];
        let mut depth = 0;
        while !level.is_empty() {
            let mut next = Vec::new();
            for group in level {
                first_child.push(bytes.len() as u32);
                let longer = group.partition_point(|word| word.len() <= depth);
                let rest = group.get(longer..).unwrap_or_default();
                for child in rest.chunk_by(|one, other| one.get(depth) == other.get(depth)) {
                    let byte = child.first().and_then(|word| word.get(depth));
                    bytes.push(byte.copied().unwrap_or_default());
                    next.push(child);
                }
            }
            (level, depth) = (next, depth + 1);
        }
        first_child.push(bytes.len() as u32);
        Self { bytes, first_child }
    }

    /// The node behind `letters`; [`NOWHERE`] if no word goes on so. Does not allocate.
    pub(crate) fn follow(&self, from: u32, letters: &str) -> u32 {
        let mut at = from;
        for byte in letters.bytes() {
            at = self.child(at, byte);
            if at == NOWHERE {
                break;
            }
        }
        at
    }

    fn child(&self, at: u32, byte: u8) -> u32 {
        let find = || {
            let from = *self.first_child.get(at as usize)?;
            let to = *self.first_child.get(at as usize + 1)?;
            let children = self.bytes.get(from as usize..to as usize)?;
            Some(from + children.binary_search(&byte).ok()? as u32)
        };
        find().unwrap_or(NOWHERE)
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.bytes.capacity() + self.first_child.capacity() * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn no_words_begin_with_nothing_but_the_beginning() {
        let none = Spellings::new(std::iter::empty());
        assert_eq!(none.follow(WORD_BEGINS, ""), WORD_BEGINS);
        assert_eq!(none.follow(WORD_BEGINS, "a"), NOWHERE);
        assert_eq!(none.follow(NOWHERE, "a"), NOWHERE);
    }

    proptest! {
        #[test]
        fn follows_what_some_word_begins_with(words in prop::collection::vec("[abü]{0,5}", 0..12), wanted in "[abü]{0,6}", cut in 0..7usize) {
            let tree = Spellings::new(words.iter().map(String::as_str));
            let cut = wanted.char_indices().nth(cut).map_or(wanted.len(), |(place, _)| place);
            let in_parts = tree.follow(tree.follow(WORD_BEGINS, &wanted[..cut]), &wanted[cut..]);
            prop_assert_eq!(in_parts, tree.follow(WORD_BEGINS, &wanted));
            let begins = wanted.is_empty() || words.iter().any(|word| word.starts_with(&wanted));
            prop_assert_eq!(in_parts != NOWHERE, begins);
        }
    }
}
