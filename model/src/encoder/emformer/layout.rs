//! Where things lie in a session's state, for both executors that serve: a session may go from one to the other.
//!
//! Stem ([`super::stem::Stem::state_len`]) · frames of the pending right context `(R, dim)` · for each layer keys `(LC, dim)`,
//! values `(LC, dim)`, memories `(M, dim)`. Frame `t` of the stream sits in ring row `t mod LC`, segment `s` in memory row
//! `s mod M`; how many rows are valid follows from the number of steps, so rows that were never written are never
//! read, whatever they hold.

use std::ops::Range;

use super::config::EmformerConfig;
use crate::encoder::{Geometry, StateCache, StepRow, check_rows_held};
use crate::error::ModelError;

#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) dim: usize,
    segment: usize,
    pub(super) left: usize,
    right: usize,
    pub(super) memories: usize,
    pub(super) num_layers: usize,
    pub(super) stem_len: usize,
    /// Every step brings its right context, instead of finding the last one's in the state.
    pub(super) whole_windows: bool,
}

impl Layout {
    pub(super) fn new(encoder: &EmformerConfig, stem_len: usize) -> Self {
        Self {
            dim: encoder.dim(),
            segment: encoder.segment_length,
            left: encoder.left_context_length,
            right: encoder.right_context_length,
            memories: encoder.max_memory_size,
            num_layers: encoder.num_layers,
            stem_len,
            whole_windows: false,
        }
    }

    /// Whether a step takes its whole window from the new frames, and none from the state.
    pub(super) fn brings_window(&self, steps: u64) -> bool {
        steps == 0 || self.whole_windows
    }

    /// Rows of a ring that are written together: segments begin at multiples of it, and a ring is so many of these blocks.
    pub(super) fn block(&self) -> usize {
        let (mut block, mut rest) = (self.segment, self.left);
        while rest > 0 {
            (block, rest) = (rest, block % rest);
        }
        block
    }

    /// Values of one layer.
    pub(super) fn layer_len(&self) -> usize {
        (2 * self.left + self.memories) * self.dim
    }

    /// Values of a session.
    pub(super) fn len(&self) -> usize {
        self.memories(self.num_layers - 1).end
    }

    /// The stem's own values.
    pub(super) fn stem(&self) -> Range<usize> {
        0..self.stem_len
    }

    /// Encoder frames of the last window's right context.
    pub(super) fn pending(&self) -> Range<usize> {
        self.stem_len..self.stem_len + self.right * self.dim
    }

    /// Keys of a layer's left context.
    pub(super) fn keys(&self, layer: usize) -> Range<usize> {
        let begin = self.pending().end + layer * self.layer_len();
        begin..begin + self.left * self.dim
    }

    /// Values of a layer's left context.
    pub(super) fn values(&self, layer: usize) -> Range<usize> {
        let begin = self.keys(layer).end;
        begin..begin + self.left * self.dim
    }

    /// A layer's summaries of earlier segments.
    pub(super) fn memories(&self, layer: usize) -> Range<usize> {
        let begin = self.values(layer).end;
        begin..begin + self.memories * self.dim
    }

    /// Rows of a ring that may be read after so many steps.
    pub(super) fn num_left(&self, steps: u64) -> usize {
        at_most(self.left, steps.saturating_mul(self.segment as u64))
    }

    /// Memory rows that may be read after so many steps.
    pub(super) fn num_memories(&self, steps: u64) -> usize {
        at_most(self.memories, steps)
    }

    /// Values where a segment's frames go in a ring: (frame of the segment, its place), for as many as survive.
    pub(super) fn ring_places(&self, steps: u64) -> impl Iterator<Item = (usize, Range<usize>)> + use<> {
        let (dim, left, segment) = (self.dim, self.left, self.segment);
        let first = steps.wrapping_mul(segment as u64);
        // Only the last LC frames of a longer segment would survive.
        (segment.saturating_sub(left)..segment).map(move |frame| {
            let row = (first.wrapping_add(frame as u64) % left as u64) as usize;
            (frame, row * dim..(row + 1) * dim)
        })
    }

    /// Values where a segment's summary goes among a layer's memories.
    pub(super) fn memory_place(&self, steps: u64) -> Range<usize> {
        let row = (steps % self.memories.max(1) as u64) as usize;
        row * self.dim..(row + 1) * self.dim
    }

    /// Whether every row carries a state of this layout, of which `held` counts the values, and the frames that its age calls for.
    pub(super) fn check(
        &self,
        geometry: &Geometry,
        rows: &[StepRow<'_>],
        held: impl Fn(&StateCache) -> usize,
    ) -> Result<(), ModelError> {
        check_rows_held(self.len(), rows, held, |steps| {
            geometry.values_needed(if self.brings_window(steps) { 0 } else { steps })
        })
    }

    pub(super) fn new_state(&self) -> StateCache {
        StateCache::new(self.len())
    }
}

/// `limit`, or the count while it is lower.
fn at_most(limit: usize, count: u64) -> usize {
    usize::try_from(count).map_or(limit, |count| count.min(limit))
}
