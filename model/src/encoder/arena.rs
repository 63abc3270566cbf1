//! The states of many sessions on a device, where a step finds them.
//!
//! An arena is a list of planes, tensors `(slots · rows, width)` of one type: a session with slot `s` owns `rows` rows of each plane,
//! from `s · rows` on. A step gathers rows by their numbers and overwrites rows by their numbers, one operation a plane for a whole
//! batch. A row that must not be read is asked for as [`NOWHERE`] and comes as zeros, whatever lies on the device: nothing yet, the past
//! of another session, NaN.
//!
//! A session's right to a slot is its [`Place`]. The slot is taken at its first step and given back by the place being dropped, so
//! exactly once. Nothing is cleared then: what may be read follows from the number of steps since.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use candle_core::{DType, Device, Tensor};

use crate::error::ModelError;

/// Number of a row that is not read, but zeros instead of it. Candle's `index_select` says so for the largest index.
pub(crate) const NOWHERE: u32 = u32::MAX;
/// Slots that an arena grows by, at least.
const FEWEST_NEW: usize = 64;
/// What it grows by otherwise is this part of its slots: the old and the new tensor of one plane are there at the same time.
const GROWTH: usize = 4;
/// Elements of a plane: Candle's kernels count them in 32 bits.
const MOST_ELEMENTS: usize = i32::MAX as usize;

/// What a session has of a plane: `(rows, width)`, of which either may be 0.
pub(crate) type PlaneShape = (usize, usize);

/// How many sessions an arena holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArenaSlots {
    /// States that have one.
    pub in_use: usize,
    /// Slots that memory was taken for: as many as were ever in use at once, and up to a quarter or 64 more.
    pub made: usize,
}

/// Memory of a device for sessions' states. It grows as slots are asked for and never shrinks.
pub(crate) struct Arena {
    shapes: Vec<PlaneShape>,
    dtype: DType,
    device: Device,
    /// Locked before `slots` wherever both are. Steps read it, also those that write rows, since theirs are different ones; growing writes it.
    planes: RwLock<Planes>,
    slots: Mutex<Slots>,
    /// Slots that it may grow to.
    most: usize,
}

/// The planes of an arena while it does not grow.
pub(crate) struct Planes(Vec<Option<Tensor>>);

#[derive(Default)]
struct Slots {
    free: Vec<u32>,
    made: usize,
}

impl Arena {
    /// An arena without a slot, which takes no memory yet.
    pub(crate) fn new(shapes: Vec<PlaneShape>, dtype: DType, device: &Device) -> Arc<Self> {
        let largest = shapes.iter().map(|(rows, width)| rows * width).max();
        Arc::new(Self {
            planes: RwLock::new(Planes(vec![None; shapes.len()])),
            shapes,
            dtype,
            device: device.clone(),
            slots: Mutex::default(),
            most: MOST_ELEMENTS / largest.unwrap_or(0).max(1),
        })
    }

    /// A place for one session, still without a slot.
    pub(crate) fn place(self: &Arc<Self>) -> Place {
        Place {
            arena: Arc::clone(self),
            slot: None,
        }
    }

    /// How many slots there are.
    pub(crate) fn counts(&self) -> ArenaSlots {
        let slots = self.slots();
        ArenaSlots {
            in_use: slots.made - slots.free.len(),
            made: slots.made,
        }
    }

    /// The planes, which do not grow meanwhile.
    pub(crate) fn planes(&self) -> RwLockReadGuard<'_, Planes> {
        self.planes.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Numbers on the device; none for none.
    pub(crate) fn numbers(&self, numbers: Vec<u32>) -> Result<Option<Tensor>, ModelError> {
        if numbers.is_empty() {
            return Ok(None);
        }
        let count = numbers.len();
        Ok(Some(Tensor::from_vec(numbers, count, &self.device)?))
    }

    /// Copies whole states, plane after plane, into slots.
    pub(crate) fn fill(&self, states: &[(u32, &[f32])]) -> Result<(), ModelError> {
        if states.is_empty() {
            return Ok(());
        }
        let slots = self.numbers(states.iter().map(|(slot, _)| *slot).collect())?;
        let (planes, mut begin) = (self.planes(), 0);
        for (plane, (rows, width)) in self.shapes.iter().enumerate() {
            let range = begin..begin + rows * width;
            begin = range.end;
            if range.is_empty() {
                continue;
            }
            let shape = (states.len(), range.len());
            let values: Vec<&[f32]> = states.iter().map(|(_, values)| &values[range.clone()]).collect();
            let values = Tensor::from_vec(values.concat(), shape, &self.device)?.to_dtype(self.dtype)?;
            planes.write(plane, slots.as_ref(), &values)?;
        }
        Ok(())
    }

    fn take(&self) -> Result<u32, ModelError> {
        if let Some(slot) = self.slots().free.pop() {
            return Ok(slot);
        }
        let mut planes = self.planes.write().unwrap_or_else(PoisonError::into_inner);
        let made = {
            let mut slots = self.slots();
            // Another thread may have been faster.
            if let Some(slot) = slots.free.pop() {
                return Ok(slot);
            }
            slots.made
        };
        let full = |reason: String| ModelError::DeviceFull {
            sessions: made,
            bytes_each: self.slot_bytes(),
            reason,
        };
        let wanted = (made + FEWEST_NEW.max(made / GROWTH)).min(self.most);
        if wanted == made {
            return Err(full("a tensor of more elements cannot be indexed".into()));
        }
        self.grow(&mut planes, wanted)
            .map_err(|error| full(error.to_string()))?;
        let mut slots = self.slots();
        slots.made = wanted;
        slots.free.extend((made as u32 + 1..wanted as u32).rev());
        Ok(made as u32)
    }

    /// Lengthens planes to so many slots, one after the other: those that were lengthened before a failure stay so.
    fn grow(&self, planes: &mut Planes, slots: usize) -> candle_core::Result<()> {
        for (plane, (rows, width)) in planes.0.iter_mut().zip(&self.shapes) {
            let held = plane.as_ref().map_or(Ok(0), |plane| plane.dim(0))?;
            let missing = (slots * rows).saturating_sub(held);
            if missing * width == 0 {
                continue;
            }
            let new = Tensor::zeros((missing, *width), self.dtype, &self.device)?;
            *plane = Some(match plane {
                Some(old) => Tensor::cat(&[&*old, &new], 0)?,
                None => new,
            });
        }
        Ok(())
    }

    /// Bytes of a session on the device.
    fn slot_bytes(&self) -> usize {
        let values: usize = self.shapes.iter().map(|(rows, width)| rows * width).sum();
        values * self.dtype.size_in_bytes()
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        // Nothing that is done while the lock is held can panic halfway.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Planes {
    /// The rows of these numbers, `(numbers, width)`; none of a plane without values.
    pub(crate) fn read(&self, plane: usize, rows: Option<&Tensor>) -> Result<Option<Tensor>, ModelError> {
        let plane = self.0.get(plane).and_then(Option::as_ref).zip(rows);
        Ok(plane
            .map(|(plane, rows)| plane.index_select(rows, 0))
            .transpose()?)
    }

    /// Overwrites the rows of these numbers in place with `values (numbers, width)`. Values of several times the plane's width go to so many rows.
    pub(crate) fn write(
        &self,
        plane: usize,
        rows: Option<&Tensor>,
        values: &Tensor,
    ) -> Result<(), ModelError> {
        if let Some((plane, rows)) = self.0.get(plane).and_then(Option::as_ref).zip(rows) {
            let (count, width) = values.dims2()?;
            // Every value wants its row beside it.
            let rows = rows.reshape((count, 1))?.broadcast_as((count, width))?;
            // The view shares the plane's memory.
            let plane = plane.reshape(((), width))?;
            plane.scatter_set(&rows.contiguous()?, &values.contiguous()?, 0)?;
        }
        Ok(())
    }
}

/// A session's place in an arena.
pub(crate) struct Place {
    arena: Arc<Arena>,
    /// `None` until its first step.
    slot: Option<u32>,
}

impl Place {
    /// Whether it is one of that arena.
    pub(crate) fn is_in(&self, arena: &Arc<Arena>) -> bool {
        Arc::ptr_eq(&self.arena, arena)
    }

    /// Its slot, if it has been stepped.
    pub(crate) fn slot(&self) -> Option<u32> {
        self.slot
    }

    /// Its slot, taken now if it is the first time.
    ///
    /// # Errors
    /// [`ModelError::DeviceFull`]; then it has none as before.
    pub(crate) fn take(&mut self) -> Result<u32, ModelError> {
        match self.slot {
            Some(slot) => Ok(slot),
            None => Ok(*self.slot.insert(self.arena.take()?)),
        }
    }

    /// Bytes on the device, from its first step on.
    pub(crate) fn bytes(&self) -> usize {
        self.arena.slot_bytes()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.arena.slots().free.push(slot);
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Place({:?})", self.slot)
    }
}

/// The same place: no two sessions have equal slots.
impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.is_in(&other.arena) && self.slot == other.slot
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Leaves an arena only one row of each plane, so that writes beyond it fail.
    pub(crate) fn truncate(arena: &Arena) {
        let mut planes = arena.planes.write().unwrap();
        for plane in planes.0.iter_mut().flatten() {
            *plane = plane.narrow(0, 0, 1).unwrap();
        }
    }

    fn arena() -> Arc<Arena> {
        Arena::new(vec![(2, 3), (0, 5), (1, 4), (3, 0)], DType::F32, &Device::Cpu)
    }

    fn read(arena: &Arena, plane: usize, rows: &[u32]) -> Vec<Vec<f32>> {
        let rows = arena.numbers(rows.to_vec()).unwrap();
        let read = arena.planes().read(plane, rows.as_ref()).unwrap();
        read.unwrap().to_vec2().unwrap()
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let arena = arena();
        let mut places: Vec<Place> = (0..3).map(|_| arena.place()).collect();
        assert_eq!(arena.counts(), ArenaSlots { in_use: 0, made: 0 });
        let slots: Vec<u32> = places.iter_mut().map(|place| place.take().unwrap()).collect();
        let states: Vec<Vec<f32>> = (0..3).map(|state| vec![state as f32; 10]).collect();
        let poison = vec![f32::NAN; 10];
        arena
            .fill(&[
                (slots[0], &states[0]),
                (slots[1], &poison),
                (slots[2], &states[2]),
            ])
            .unwrap();
        let [first, poisoned, last] = slots[..] else {
            panic!()
        };
        assert_eq!(
            read(&arena, 0, &[2 * last + 1, NOWHERE, 2 * first]),
            [[2.0; 3], [0.0; 3], [0.0; 3]]
        );
        assert!(read(&arena, 2, &[poisoned])[0].iter().all(|value| value.is_nan()));
        assert!(
            arena
                .planes()
                .read(1, arena.numbers(vec![0]).unwrap().as_ref())
                .unwrap()
                .is_none()
        );

        let row = arena.numbers(vec![2 * poisoned + 1]).unwrap();
        let values = Tensor::new(&[[7f32, 8.0, 9.0]], &Device::Cpu).unwrap();
        arena.planes().write(0, row.as_ref(), &values).unwrap();
        let rows = read(&arena, 0, &(0..6).collect::<Vec<u32>>());
        assert_eq!(rows[2 * poisoned as usize + 1], [7.0, 8.0, 9.0]);
        assert!(rows[2 * poisoned as usize].iter().all(|value| value.is_nan()));
        assert_eq!(rows[2 * last as usize], [2.0; 3]);
    }

    #[test]
    fn it_grows_and_keeps_what_it_holds() {
        let arena = arena();
        let mut places: Vec<Place> = (0..300).map(|_| arena.place()).collect();
        for (index, place) in places.iter_mut().enumerate() {
            let state = vec![index as f32; 10];
            arena.fill(&[(place.take().unwrap(), &state)]).unwrap();
        }
        let counts = arena.counts();
        assert_eq!(counts.in_use, 300);
        assert!(counts.made < 300 + 300 / GROWTH + FEWEST_NEW, "{counts:?}");
        for (index, place) in places.iter().enumerate() {
            assert_eq!(read(&arena, 2, &[place.slot().unwrap()]), [[index as f32; 4]]);
        }
        places.truncate(20);
        assert_eq!(arena.counts(), ArenaSlots { in_use: 20, ..counts });
        let mut slots: Vec<u32> = places.iter().filter_map(Place::slot).collect();
        let mut others: Vec<Place> = (0..counts.made - 20).map(|_| arena.place()).collect();
        slots.extend(others.iter_mut().map(|place| place.take().unwrap()));
        slots.sort_unstable();
        assert!(slots.iter().copied().eq(0..counts.made as u32));
        assert_eq!(
            arena.counts(),
            ArenaSlots {
                in_use: counts.made,
                ..counts
            }
        );
    }

    #[test]
    fn a_full_one_loses_no_slot() {
        let mut arena = arena();
        Arc::get_mut(&mut arena).unwrap().most = 70;
        let mut places: Vec<Place> = (0..71).map(|_| arena.place()).collect();
        let taken: Result<Vec<u32>, ModelError> = places.iter_mut().map(Place::take).collect();
        let error = taken.unwrap_err();
        assert!(
            matches!(
                error,
                ModelError::DeviceFull {
                    sessions: 70,
                    bytes_each: 40,
                    ..
                }
            ),
            "{error}"
        );
        assert_eq!(places[70].slot(), None);
        assert_eq!(arena.counts(), ArenaSlots { in_use: 70, made: 70 });
        let freed = places.swap_remove(3).slot();
        assert_eq!(places[3].take().ok(), freed);
        drop(places);
        assert_eq!(arena.counts(), ArenaSlots { in_use: 0, made: 70 });
    }
}
