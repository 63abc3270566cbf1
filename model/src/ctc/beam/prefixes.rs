//! The prefixes of a beam as a tree in an arena, each spelling once.
//!
//! A node is a prefix: the tokens from the root down to it. Only prefixes in the beam and what they begin with are
//! kept; the rest goes back to a free list, so a stream that goes on for ever allocates only until the largest tree has
//! been seen. What all prefixes begin with leaves the tree at its root.

/// No node, no token, no place.
pub(super) const NONE: u32 = u32::MAX;

/// The place of a node that is free.
const FREE: u32 = u32::MAX - 1;

/// A prefix.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node<S> {
    /// The prefix without its last token; [`NONE`] for the root.
    pub(super) parent: u32,
    first_child: u32,
    next_sibling: u32,
    /// Its last token.
    pub(super) token: u32,
    /// Where it stands in the beam; [`NONE`] where it does not.
    pub(super) place: u32,
    /// What the scorer said when the last token was appended, as a factor.
    pub(super) weight: f64,
    /// All that the scorer has said, as a natural log.
    pub(super) scored: f64,
    /// The scorer's state behind the last token.
    pub(super) state: S,
    /// What the scorer said to the open word's being complete here, once it was asked.
    pub(super) word: Option<(f32, S)>,
}

/// The tree.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Prefixes<S> {
    nodes: Vec<Node<S>>,
    /// Head of the list of free nodes, linked by `next_sibling`.
    free: u32,
    root: u32,
}

impl<S: Copy> Prefixes<S> {
    /// A tree of the root alone, which ends in `token` or in none.
    pub(super) fn new(token: u32, state: S) -> Self {
        let mut tree = Self {
            nodes: Vec::new(),
            free: NONE,
            root: NONE,
        };
        tree.restart(token, state, 0.0);
        tree
    }

    /// Leaves nothing but a new root at place 0; the memory stays.
    pub(super) fn restart(&mut self, token: u32, state: S, scored: f64) {
        self.nodes.clear();
        self.free = NONE;
        self.root = self.insert(NONE, token, 1.0, scored, state);
        self.get_mut(self.root).place = 0;
    }

    pub(super) fn root(&self) -> u32 {
        self.root
    }

    pub(super) fn get(&self, node: u32) -> &Node<S> {
        &self.nodes[node as usize]
    }

    pub(super) fn get_mut(&mut self, node: u32) -> &mut Node<S> {
        &mut self.nodes[node as usize]
    }

    /// The place in the beam of the prefix without its last token.
    pub(super) fn parents_place(&self, node: u32) -> u32 {
        self.nodes
            .get(self.get(node).parent as usize)
            .map_or(NONE, |parent| parent.place)
    }

    /// The prefix with `token` appended, if it is in the tree.
    pub(super) fn child(&self, node: u32, token: u32) -> u32 {
        let mut child = self.get(node).first_child;
        while child != NONE && self.get(child).token != token {
            child = self.get(child).next_sibling;
        }
        child
    }

    /// Adds the prefix with `token` appended, which must not be in the tree. `said` is what the scorer added.
    pub(super) fn append(&mut self, node: u32, token: u32, said: f32, state: S) -> u32 {
        let scored = self.get(node).scored + f64::from(said);
        self.insert(node, token, f64::from(said).exp(), scored, state)
    }

    /// Gives back a prefix that has left the beam, and what was kept only for it. One that was given back already, as
    /// the beginning of another, stays so.
    pub(super) fn release(&mut self, mut node: u32) {
        while node != self.root && self.get(node).place == NONE && self.get(node).first_child == NONE {
            let parent = self.get(node).parent;
            self.unlink(parent, node);
            self.give_back(node);
            node = parent;
        }
    }

    /// Moves the root one token down if all prefixes go on with that token; the token.
    pub(super) fn advance(&mut self) -> Option<u32> {
        let root = self.get(self.root);
        let child = root.first_child;
        if root.place != NONE || child == NONE || self.get(child).next_sibling != NONE {
            return None;
        }
        self.give_back(self.root);
        self.root = child;
        let root = self.get_mut(child);
        root.parent = NONE;
        Some(root.token)
    }

    /// Bytes of one.
    pub(super) const NODE_BYTES: usize = size_of::<Node<S>>();

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<Node<S>>()
    }

    fn insert(&mut self, parent: u32, token: u32, weight: f64, scored: f64, state: S) -> u32 {
        let next_sibling = match self.nodes.get(parent as usize) {
            Some(parent) => parent.first_child,
            None => NONE,
        };
        let node = Node {
            parent,
            first_child: NONE,
            next_sibling,
            token,
            place: NONE,
            weight,
            scored,
            state,
            word: None,
        };
        let index = if self.free == NONE {
            self.nodes.push(node);
            (self.nodes.len() - 1) as u32
        } else {
            let index = self.free;
            self.free = self.get(index).next_sibling;
            *self.get_mut(index) = node;
            index
        };
        if let Some(parent) = self.nodes.get_mut(parent as usize) {
            parent.first_child = index;
        }
        index
    }

    fn give_back(&mut self, node: u32) {
        let free = self.free;
        let given = self.get_mut(node);
        given.next_sibling = free;
        given.place = FREE;
        self.free = node;
    }

    fn unlink(&mut self, parent: u32, node: u32) {
        let next = self.get(node).next_sibling;
        let mut sibling = self.get(parent).first_child;
        if sibling == node {
            self.get_mut(parent).first_child = next;
            return;
        }
        while self.get(sibling).next_sibling != node {
            sibling = self.get(sibling).next_sibling;
        }
        self.get_mut(sibling).next_sibling = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leaves_the_beam_is_given_back_with_what_only_it_needed() {
        let mut tree = Prefixes::new(NONE, ());
        let a = tree.append(tree.root(), 1, 0.0, ());
        let ab = tree.append(a, 2, -1.0, ());
        let abc = tree.append(ab, 3, -1.0, ());
        let ad = tree.append(a, 4, 0.0, ());
        assert_eq!(
            (tree.child(a, 2), tree.child(a, 4), tree.child(a, 9)),
            (ab, ad, NONE)
        );
        assert_eq!(tree.get(abc).scored, -2.0);
        tree.get_mut(abc).place = 0;
        tree.get_mut(ad).place = 1;
        tree.get_mut(tree.root()).place = NONE;
        assert_eq!(tree.advance(), Some(1));
        assert_eq!(tree.advance(), None, "two ways on");
        tree.get_mut(abc).place = NONE;
        tree.release(abc);
        tree.release(abc);
        tree.release(ab);
        assert_eq!(tree.child(a, 2), NONE);
        assert_eq!(tree.advance(), Some(4));
        let before = tree.heap_bytes();
        for token in 5..9 {
            tree.append(ad, token, 0.0, ());
        }
        assert_eq!(tree.heap_bytes(), before, "four nodes were free");
    }
}
