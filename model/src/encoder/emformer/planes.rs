//! A session's state as rows of an arena's planes, for the executor for devices: [`Layout`]'s parts one after the other.
//!
//! The stem's last feature frames, its first convolution's last output and the right context that waits are one row each. Then each layer
//! has its keys, values and memories: rings are rows of whole blocks of frames, [`Layout::block`], so that a segment is few of them.

use crate::encoder::arena::{NOWHERE, PlaneShape};

use super::layout::Layout;

pub(super) const STEM_FEATURES: usize = 0;
pub(super) const STEM_OUTPUT: usize = 1;
pub(super) const PENDING: usize = 2;
const LAYERS: usize = 3;

pub(super) const fn keys(layer: usize) -> usize {
    LAYERS + 3 * layer
}

pub(super) const fn values(layer: usize) -> usize {
    keys(layer) + 1
}

pub(super) const fn memories(layer: usize) -> usize {
    keys(layer) + 2
}

/// What the rows of a plane are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    /// All that one step leaves to the next one, and it alone.
    Carried,
    /// Blocks of a ring.
    Ring,
    /// Memories.
    Memory,
}

impl Part {
    pub(super) fn of(plane: usize) -> Self {
        match plane.checked_sub(LAYERS).map(|plane| plane % 3) {
            None => Self::Carried,
            Some(0 | 1) => Self::Ring,
            Some(_) => Self::Memory,
        }
    }
}

/// One session of a step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seat {
    pub(super) slot: u32,
    pub(super) steps: u64,
}

impl Layout {
    /// Every plane's rows and width for a session.
    pub(super) fn plane_shapes(&self) -> Vec<PlaneShape> {
        let stem_output = self.dim.min(self.stem_len);
        let mut shapes = vec![
            (1, self.stem_len - stem_output),
            (1, stem_output),
            (1, self.pending().len()),
        ];
        let ring = (self.num_rows(Part::Ring), self.block() * self.dim);
        for _ in 0..self.num_layers {
            shapes.extend([ring, ring, (self.memories, self.dim)]);
        }
        shapes
    }

    /// Rows of a session in a plane.
    fn num_rows(&self, part: Part) -> usize {
        match part {
            Part::Carried => 1,
            Part::Ring => self.left / self.block(),
            Part::Memory => self.memories,
        }
    }

    /// Numbers of all rows of some sessions, session after session: [`NOWHERE`] for those that may not be read yet.
    pub(super) fn rows_to_read(&self, part: Part, seats: &[Seat]) -> Vec<u32> {
        let count = self.num_rows(part);
        let numbers = seats.iter().flat_map(|seat| {
            let valid = match part {
                Part::Carried => usize::from(seat.steps > 0),
                Part::Ring => self.num_left(seat.steps) / self.block(),
                Part::Memory => self.num_memories(seat.steps),
            };
            let first = seat.slot * count as u32;
            (0..count).map(move |row| if row < valid { first + row as u32 } else { NOWHERE })
        });
        numbers.collect()
    }

    /// Numbers of the rows that some sessions overwrite in a step, session after session.
    pub(super) fn rows_to_write(&self, part: Part, seats: &[Seat]) -> Vec<u32> {
        let (count, block) = (self.num_rows(part), self.block());
        let mut numbers = Vec::new();
        for seat in seats.iter().filter(|_| count > 0) {
            let first = seat.slot * count as u32;
            match part {
                Part::Carried => numbers.push(first),
                Part::Ring => {
                    let places = self.ring_places(seat.steps).step_by(block);
                    numbers
                        .extend(places.map(|(_, place)| first + (place.start / (block * self.dim)) as u32));
                }
                Part::Memory => {
                    let place = self.memory_place(seat.steps);
                    numbers.push(first + (place.start / self.dim) as u32);
                }
            }
        }
        numbers
    }
}
