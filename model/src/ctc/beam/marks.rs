//! When the tokens of each hypothesis were said.
//!
//! A mark says that a token's run began at a frame, and which mark came before it: the most probable single path into
//! a prefix, as a list that hypotheses share where they agree. Marks never change, so a prefix that is entered
//! a second time, later and better, gets a new one, and times along a list always grow. Where all lists begin with the
//! same marks, these are settled: tokens and times both.

use super::prefixes::NONE;
use crate::hypothesis::EmittedToken;

/// What is known of the end of a list of marks: the run of its last token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Path {
    /// Natural log-probability of this one path, without the scorer's part.
    pub(super) viterbi: f64,
    /// The last mark.
    pub(super) mark: u32,
    /// The frame behind the last token's run.
    pub(super) end: u64,
    /// The highest log-posterior in that run.
    pub(super) log_posterior: f32,
}

#[derive(Debug, Clone, PartialEq)]
struct Mark {
    previous: u32,
    children: u32,
    /// All children combined by exclusive or: where there is one, this is it.
    child: u32,
    /// Paths that end here.
    paths: u32,
    token: u32,
    start: u64,
    /// The end and the highest log-posterior of the previous token's run.
    previous_end: u64,
    previous_log_posterior: f32,
    serial: u64,
}

/// What a beam has settled, in order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum BeamEvent {
    /// A token was said, and its run began at this frame. More may become known of it.
    Began {
        /// Its class.
        id: u32,
        /// First output frame of its run, counted from the stream's start.
        start: u64,
    },
    /// All is known of the token that began last.
    Ended(EmittedToken),
}

/// All lists of marks, as a tree in an arena.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Marks {
    marks: Vec<Mark>,
    /// Head of the list of free marks, linked by `previous`.
    free: u32,
    root: u32,
    next_serial: u64,
}

impl Marks {
    /// The root alone: `token` (or none) began at `start`.
    pub(super) fn new(token: u32, start: u64) -> Self {
        let mut marks = Self {
            marks: Vec::new(),
            free: NONE,
            root: NONE,
            next_serial: 0,
        };
        marks.restart(token, start);
        marks
    }

    /// Leaves nothing but a new root, which no path ends in yet; the memory stays.
    pub(super) fn restart(&mut self, token: u32, start: u64) {
        self.marks.clear();
        self.free = NONE;
        self.root = self.insert(NONE, token, start, 0, 0.0);
    }

    pub(super) fn root(&self) -> u32 {
        self.root
    }

    /// A token's first frame.
    pub(super) fn start(&self, mark: u32) -> u64 {
        self.get(mark).start
    }

    pub(super) fn token(&self, mark: u32) -> u32 {
        self.get(mark).token
    }

    /// Never the same for two marks.
    pub(super) fn serial(&self, mark: u32) -> u64 {
        self.get(mark).serial
    }

    /// The mark before; `None` for the root.
    pub(super) fn previous(&self, mark: u32) -> Option<u32> {
        let previous = self.get(mark).previous;
        (previous != NONE).then_some(previous)
    }

    /// Appends `token`, whose run begins at `start`, to a path.
    pub(super) fn begin(&mut self, path: &Path, token: u32, start: u64) -> u32 {
        self.insert(path.mark, token, start, path.end, path.log_posterior)
    }

    /// A path ends in the mark from now on.
    pub(super) fn acquire(&mut self, mark: u32) {
        self.get_mut(mark).paths += 1;
    }

    /// A path does not end in the mark any more; marks that no path needs are given back.
    pub(super) fn release(&mut self, mut mark: u32) {
        self.get_mut(mark).paths -= 1;
        while mark != self.root && self.get(mark).paths == 0 && self.get(mark).children == 0 {
            let previous = self.get(mark).previous;
            let parent = self.get_mut(previous);
            parent.children -= 1;
            parent.child ^= mark;
            self.give_back(mark);
            mark = previous;
        }
    }

    /// Settles what all paths agree on.
    pub(super) fn settle(&mut self, events: &mut Vec<BeamEvent>) {
        loop {
            let root = self.get(self.root);
            if root.paths != 0 || root.children != 1 {
                return;
            }
            let child = root.child;
            self.report(child, events);
            let old = self.root;
            self.give_back(old);
            self.root = child;
            self.get_mut(child).previous = NONE;
        }
    }

    /// Reports a path from the root, exclusive, to its end.
    pub(super) fn report_path(&self, path: &Path, events: &mut Vec<BeamEvent>) {
        let begin = events.len();
        let mut mark = path.mark;
        while let Some(previous) = self.previous(mark) {
            // Backwards here, so that the order is right once it is turned around.
            let [ended, began] = self.events(mark);
            events.extend(began);
            events.extend(ended);
            mark = previous;
        }
        if let Some(reported) = events.get_mut(begin..) {
            reported.reverse();
        }
        events.extend(self.last(path));
    }

    /// The last token of a path; `None` where it has none.
    pub(super) fn last(&self, path: &Path) -> Option<BeamEvent> {
        let mark = self.get(path.mark);
        (mark.token != NONE).then_some(BeamEvent::Ended(EmittedToken {
            id: mark.token,
            start: mark.start,
            end: path.end,
            log_posterior: path.log_posterior,
        }))
    }

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        self.marks.capacity() * size_of::<Mark>()
    }

    /// Bytes of one.
    pub(super) const BYTES: usize = size_of::<Mark>();

    fn report(&self, mark: u32, events: &mut Vec<BeamEvent>) {
        let [ended, began] = self.events(mark);
        events.extend(ended);
        events.extend(began);
    }

    /// What a mark tells: of the run before it, if that was a token, and of its own.
    fn events(&self, mark: u32) -> [Option<BeamEvent>; 2] {
        let mark = self.get(mark);
        let previous = self.get(mark.previous);
        let ended = (previous.token != NONE).then_some(BeamEvent::Ended(EmittedToken {
            id: previous.token,
            start: previous.start,
            end: mark.previous_end,
            log_posterior: mark.previous_log_posterior,
        }));
        let began = BeamEvent::Began {
            id: mark.token,
            start: mark.start,
        };
        [ended, Some(began)]
    }

    fn get(&self, mark: u32) -> &Mark {
        &self.marks[mark as usize]
    }

    fn get_mut(&mut self, mark: u32) -> &mut Mark {
        &mut self.marks[mark as usize]
    }

    fn give_back(&mut self, mark: u32) {
        let free = self.free;
        self.get_mut(mark).previous = free;
        self.free = mark;
    }

    fn insert(
        &mut self,
        previous: u32,
        token: u32,
        start: u64,
        previous_end: u64,
        previous_log_posterior: f32,
    ) -> u32 {
        let mark = Mark {
            previous,
            children: 0,
            child: 0,
            paths: 0,
            token,
            start,
            previous_end,
            previous_log_posterior,
            serial: self.next_serial,
        };
        self.next_serial += 1;
        let index = if self.free == NONE {
            self.marks.push(mark);
            (self.marks.len() - 1) as u32
        } else {
            let index = self.free;
            self.free = self.get(index).previous;
            *self.get_mut(index) = mark;
            index
        };
        if let Some(parent) = self.marks.get_mut(previous as usize) {
            parent.children += 1;
            parent.child ^= index;
        }
        index
    }
}
