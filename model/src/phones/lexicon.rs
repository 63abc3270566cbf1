//! All pronunciations as one tree, so that a search follows the beginnings that words have in common once.

use std::ops::Range;

use super::pronunciations::Pronunciations;

/// A tree of phones. The children of a node lie side by side, sorted by their phone; node 0 is where words begin.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Lexicon {
    phones: Vec<u8>,
    /// Of each node the first of its children; those of the next node begin where they end.
    first_child: Vec<u32>,
    /// Of each node the first of the words that end there.
    first_word: Vec<u32>,
    words: Vec<u32>,
    /// Of each phone the node of the words that begin with it; 0 where none does.
    firsts: Vec<u32>,
    /// The best worth of the words that end in a node or behind it.
    ahead: Vec<f32>,
}

pub(super) const ROOT: u32 = 0;

impl Lexicon {
    /// The tree of a list, with what a search may expect of each word, above 0.
    pub(super) fn new(list: &Pronunciations, worth: impl Fn(u32) -> f32) -> Self {
        let mut said: Vec<(&[u8], u32)> = (0..list.num_words() as u32)
            .flat_map(|word| list.of(word).map(move |phones| (phones, word)))
            .collect();
        said.sort_unstable();
        let mut tree = Self {
            phones: vec![0],
            ..Self::default()
        };
        // Nodes are numbered by their depth, so that brothers are neighbours.
        let mut level: Vec<Range<usize>> = std::iter::once(0..said.len()).collect();
        let mut depth = 0;
        while !level.is_empty() {
            let mut deeper = Vec::new();
            for group in level {
                tree.first_child.push(tree.phones.len() as u32);
                tree.first_word.push(tree.words.len() as u32);
                let Range { start, end } = group;
                let members = said.get(start..end).unwrap_or_default();
                let ending = members.partition_point(|(phones, _)| phones.len() <= depth);
                tree.words
                    .extend(members.iter().take(ending).map(|&(_, word)| word));
                let mut from = start + ending;
                let phone_of = |at: usize| said.get(at).and_then(|(phones, _)| phones.get(depth).copied());
                while from < end {
                    let phone = phone_of(from);
                    let same = (from..end).take_while(|&at| phone_of(at) == phone).count();
                    tree.phones.push(phone.unwrap_or_default());
                    deeper.push(from..from + same);
                    from += same;
                }
            }
            level = deeper;
            depth += 1;
        }
        tree.first_child.push(tree.phones.len() as u32);
        tree.first_word.push(tree.words.len() as u32);
        tree.firsts = vec![ROOT; 256];
        for child in tree.children(ROOT) {
            let phone = tree.phone(child);
            if let Some(place) = tree.firsts.get_mut(phone as usize) {
                *place = child;
            }
        }
        tree.ahead = vec![0.0; tree.phones.len()];
        for node in (0..tree.phones.len() as u32).rev() {
            let own = tree.words(node).iter().map(|&word| worth(word));
            let behind = tree.children(node).map(|child| tree.ahead(child));
            let best = own.chain(behind).fold(0.0, f32::max);
            if let Some(place) = tree.ahead.get_mut(node as usize) {
                *place = best;
            }
        }
        tree
    }

    /// The phone that leads to a node; 0, the blank, for the root.
    pub(super) fn phone(&self, node: u32) -> u8 {
        self.phones.get(node as usize).copied().unwrap_or_default()
    }

    /// The nodes behind a node.
    pub(super) fn children(&self, node: u32) -> Range<u32> {
        between(&self.first_child, node)
    }

    /// The node of the words that begin with a phone.
    pub(super) fn first(&self, phone: u8) -> Option<u32> {
        self.firsts
            .get(phone as usize)
            .copied()
            .filter(|&node| node != ROOT)
    }

    /// The words that end in a node.
    pub(super) fn words(&self, node: u32) -> &[u32] {
        let Range { start, end } = between(&self.first_word, node);
        self.words.get(start as usize..end as usize).unwrap_or_default()
    }

    /// The best worth among the words of a node and behind it.
    pub(super) fn ahead(&self, node: u32) -> f32 {
        self.ahead.get(node as usize).copied().unwrap_or_default()
    }
}

/// Where the parts of a number begin and end.
fn between(firsts: &[u32], index: u32) -> Range<u32> {
    let at = |index: usize| firsts.get(index).copied().unwrap_or_default();
    at(index as usize)..at(index as usize + 1)
}
