//! The Emformer on a GPU: one step for sessions of any age, in Candle operations on whole batches.
//!
//! The states stay on the device, in an [`Arena`] whose planes are the parts of [`Layout`] one after the other. A step sends new
//! features and the numbers of the rows that it reads and overwrites, and only the encoder's output comes back. How many operations
//! it takes depends on the model and not on the batch. Rows that may not be read are zeros there, and masked.
//!
//! Nothing is overwritten before the output has arrived. Where the device fails, the sessions of that step lose their places: what
//! they hold may be half written, so that it is refused until the state is reset. A GPU may report what went wrong in the writes only with
//! a later operation; from then on every step fails.
//!
//! A state that comes with values in host memory, as [`Emformer`](super::Emformer) has them, is copied to the device at its next step;
//! [`to_host`](StreamingEncoder::to_host) goes the other way.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};

use crate::encoder::arena::{Arena, ArenaSlots, Place, Planes};
use crate::encoder::{Geometry, StateCache, StepRow, StreamingEncoder};
use crate::error::ModelError;
use crate::loader::Weights;

use super::config::EmformerConfig;
use super::layout::Layout;
use super::planes::{PENDING, Part, STEM_FEATURES, STEM_OUTPUT, Seat, keys, memories, values};
use super::tensors::{Context, Tensors};
use super::{STEM_LOOKAHEAD, STEM_SUBSAMPLING, geometry};

/// Sessions that share one step on the device: bounds its memory. More are stepped in turns.
const MAX_BATCH: usize = 512;
/// Feature frames that the stem carries from step to step.
const CARRIED_FEATURES: usize = 2;

/// An Emformer whose steps run on a device. Threads may share it, and take turns.
pub struct DeviceEmformer {
    /// Whose turn it is. A device has one queue: the operations of two steps in it, one between the other's, would make both as late as the later one.
    turn: Mutex<()>,
    tensors: Tensors,
    layout: Layout,
    geometry: Geometry,
    arena: Arc<Arena>,
    device: Device,
    dim: usize,
    segment: usize,
    right: usize,
    left: usize,
    memories: usize,
    num_layers: usize,
}

/// What some sessions remember of a step: a plane, and the rows that they overwrite of it, session after session, `(rows, width)`.
type Kept = Vec<(usize, Tensor)>;

impl DeviceEmformer {
    /// Copies the weights to a device. Memory for sessions is taken as they come.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when a tensor of [`super::expected_tensors`] is missing, [`ModelError::Tensor`] when the device
    /// refuses.
    pub fn new(encoder: &EmformerConfig, weights: &Weights, device: &Device) -> Result<Self, ModelError> {
        let tensors = Tensors::new(encoder, weights, device)?;
        let dim = encoder.dim();
        let stem_len = match encoder.has_stem() {
            true => CARRIED_FEATURES * encoder.input_dim + dim,
            false => 0,
        };
        let layout = Layout::new(encoder, stem_len);
        Ok(Self {
            turn: Mutex::default(),
            arena: Arena::new(layout.plane_shapes(), tensors.dtype, device),
            layout,
            geometry: geometry(encoder),
            device: device.clone(),
            dim,
            segment: encoder.segment_length,
            right: encoder.right_context_length,
            left: encoder.left_context_length,
            memories: encoder.max_memory_size,
            num_layers: encoder.num_layers,
            tensors,
        })
    }

    /// How many sessions the device holds, and how many there is memory for.
    pub fn slots(&self) -> ArenaSlots {
        self.arena.counts()
    }

    fn holds(&self, state: &StateCache) -> bool {
        state.place.as_ref().is_some_and(|place| place.is_in(&self.arena))
    }

    /// Gives every row a slot; those whose values are in host memory bring them.
    fn settle(&self, rows: &mut [StepRow<'_>]) -> Result<(), ModelError> {
        let mut arriving: Vec<(&mut StateCache, Place, u32)> = Vec::new();
        for row in rows {
            match &mut row.state.place {
                Some(place) => {
                    place.take()?;
                }
                None => {
                    let mut place = self.arena.place();
                    let slot = place.take()?;
                    arriving.push((&mut *row.state, place, slot));
                }
            }
        }
        for arriving in arriving.chunks(MAX_BATCH) {
            let states: Vec<(u32, &[f32])> = arriving
                .iter()
                .filter(|(state, ..)| state.steps > 0)
                .map(|(state, _, slot)| (*slot, &*state.values))
                .collect();
            self.arena.fill(&states)?;
        }
        for (state, place, _) in arriving {
            state.values = Box::default();
            state.place = Some(place);
        }
        Ok(())
    }

    /// Numbers of all rows of the sessions on the device; none for none.
    fn rows_to_read(&self, part: Part, seats: &[Seat]) -> Result<Option<Tensor>, ModelError> {
        self.arena.numbers(self.layout.rows_to_read(part, seats))
    }

    /// The outputs of rows that have a slot, row after row, `(output frames, dim)` each. Rows whose states are of one kind go first: those
    /// that have never been stepped need more frames.
    fn step_batch(&self, rows: &mut [&mut StepRow<'_>]) -> Result<Vec<f32>, ModelError> {
        rows.sort_by_key(|row| row.state.steps > 0);
        let num_first = rows.partition_point(|row| row.state.steps == 0);
        let seats: Vec<Seat> = rows
            .iter()
            .filter_map(|row| {
                let slot = row.state.place.as_ref()?.slot()?;
                Some(Seat {
                    slot,
                    steps: row.state.steps,
                })
            })
            .collect();
        debug_assert_eq!(seats.len(), rows.len(), "every row is settled");
        let planes = self.arena.planes();

        let kinds = [
            (&rows[..num_first], &seats[..num_first]),
            (&rows[num_first..], &seats[num_first..]),
        ];
        let mut windows = Vec::new();
        let mut carried: [Vec<Tensor>; 2] = Default::default();
        for (rows, seats) in kinds.into_iter().filter(|(rows, _)| !rows.is_empty()) {
            let (window, stem) = self.embed(rows, seats, &planes)?;
            windows.push(window);
            if let Some((features, output)) = stem {
                carried[STEM_FEATURES].push(features);
                carried[STEM_OUTPUT].push(output);
            }
        }
        let mut kept = Kept::new();
        for (plane, parts) in carried.iter().enumerate().filter(|(_, parts)| !parts.is_empty()) {
            kept.push((plane, Tensor::cat(parts, 0)?));
        }
        let encoded = self.run_layers(&seats, &planes, &Tensor::cat(&windows, 0)?, &mut kept)?;
        let output = encoded.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;

        // From here on states change.
        let [carried, rings, memories] = [Part::Carried, Part::Ring, Part::Memory]
            .map(|part| self.arena.numbers(self.layout.rows_to_write(part, &seats)));
        let (carried, rings, memories) = (carried?, rings?, memories?);
        for (plane, values) in &kept {
            let numbers = match Part::of(*plane) {
                Part::Carried => &carried,
                Part::Ring => &rings,
                Part::Memory => &memories,
            };
            planes.write(*plane, numbers.as_ref(), values)?;
        }
        Ok(output)
    }

    /// The windows `(sessions, L + R, dim)` of rows of one kind, and what their stems carry on: feature frames side by side, and the first
    /// convolution's last output, `(sessions, values)`.
    fn embed(
        &self,
        rows: &[&mut StepRow<'_>],
        seats: &[Seat],
        planes: &Planes,
    ) -> Result<(Tensor, Option<(Tensor, Tensor)>), ModelError> {
        let (sessions, width) = (rows.len(), self.geometry.num_features);
        let steps = seats.first().map_or(0, |seat| seat.steps);
        let is_first = steps == 0;
        let values: Vec<&[f32]> = rows.iter().map(|row| row.features).collect();
        let values = values.concat();
        let shape = (sessions, self.geometry.frames_needed(steps), width);
        let mut frames = Tensor::from_vec(values, shape, &self.device)?.to_dtype(self.tensors.dtype)?;

        let numbers = self.rows_to_read(Part::Carried, seats)?;
        let read = |plane| planes.read(plane, numbers.as_ref());
        let new = self.segment + if is_first { self.right } else { 0 };
        let mut stem = None;
        if let Some((past, output)) = read(STEM_FEATURES)?.zip(read(STEM_OUTPUT)?) {
            // In front of a stream stand zeros, one frame of features and one output, which is what is read in front of a first step.
            let front = if is_first { 1 } else { CARRIED_FEATURES };
            let past = past.reshape((sessions, CARRIED_FEATURES, width))?;
            let features = Tensor::cat(&[&past.narrow(1, CARRIED_FEATURES - front, front)?, &frames], 1)?;
            let positions: Vec<u64> = seats
                .iter()
                .flat_map(|seat| {
                    let first = match is_first {
                        true => 0,
                        false => seat.steps * self.segment as u64 + self.right as u64,
                    };
                    (first..).take(new)
                })
                .collect();
            let (convolved, output) = self.tensors.convolve(&features, &output, &positions)?;
            let past = features.narrow(1, features.dim(1)? - CARRIED_FEATURES, CARRIED_FEATURES)?;
            stem = Some((past.flatten_from(1)?, output));
            frames = convolved;
            debug_assert_eq!(
                STEM_SUBSAMPLING * new + if is_first { STEM_LOOKAHEAD } else { 0 },
                self.geometry.frames_needed(steps)
            );
        }
        debug_assert_eq!(frames.dim(1)?, new);
        if let Some(pending) = read(PENDING)?.filter(|_| !is_first) {
            let pending = pending.reshape((sessions, self.right, self.dim))?;
            frames = Tensor::cat(&[&pending, &frames], 1)?;
        }
        Ok((frames, stem))
    }

    /// Windows `(sessions, L + R, dim)` through all layers and the final norm, `(sessions, L, dim)`; `kept` receives what the sessions
    /// remember.
    fn run_layers(
        &self,
        seats: &[Seat],
        planes: &Planes,
        windows: &Tensor,
        kept: &mut Kept,
    ) -> Result<Tensor, ModelError> {
        let sessions = seats.len();
        let mut x = windows.narrow(1, 0, self.segment)?.contiguous()?;
        let mut right_context = None;
        if self.right > 0 {
            let right = windows.narrow(1, self.segment, self.right)?.contiguous()?;
            kept.push((PENDING, right.flatten_from(1)?));
            right_context = Some(right);
        }
        let mut new_memory = match self.memories {
            0 => None,
            _ => Some(self.tensors.segment_means(&x)?),
        };
        let mask = self.mask(seats)?;
        let lengths = vec![self.segment; sessions];
        let rings = self.rows_to_read(Part::Ring, seats)?;
        let banks = self.rows_to_read(Part::Memory, seats)?;
        let read =
            |plane: usize, numbers: &Option<Tensor>, rows: usize| -> Result<Option<Tensor>, ModelError> {
                let part = planes.read(plane, numbers.as_ref())?;
                Ok(part
                    .map(|part| part.reshape((sessions, rows, self.dim)))
                    .transpose()?)
            };
        let survivors = self.segment.min(self.left);
        let block = self.layout.block();
        for index in 0..self.num_layers {
            let layer = &self.tensors.layers[index];
            let bank = read(memories(index), &banks, self.memories)?;
            let left = read(keys(index), &rings, self.left)?.zip(read(values(index), &rings, self.left)?);
            let summary = self.tensors.summary(layer, &x)?;
            let context = Context {
                memories: bank.as_ref(),
                left: left.as_ref().map(|(key, value)| (key, value)),
                mask: Some(&mask),
                lengths: &lengths,
            };
            let out =
                self.tensors
                    .run_layer(layer, &x, right_context.as_ref(), summary.as_ref(), &context)?;
            if survivors > 0 {
                // The segment's keys and values lie behind those of the left context.
                for (plane, all) in [(keys(index), &out.key), (values(index), &out.value)] {
                    let new = all.narrow(1, self.left + self.segment - survivors, survivors)?;
                    kept.push((plane, new.reshape(((), block * self.dim))?));
                }
            }
            if let Some(memory) = &new_memory {
                kept.push((memories(index), memory.flatten_to(1)?));
            }
            (x, right_context, new_memory) = (out.utterance, out.right_context, out.memories);
        }
        self.tensors.finish(x)
    }

    /// `(sessions, 1, queries, keys) u8`, 1 where a key must not be seen: columns memories, right context, left context, utterance.
    /// All queries see the same, and are one, but where there is a summary: the last row, which does not see the memories.
    fn mask(&self, seats: &[Seat]) -> Result<Tensor, ModelError> {
        let own = self.right + self.segment;
        let num_keys = self.memories + own + self.left;
        let left_begin = self.memories + self.right;
        let query = |sees_memories: bool| -> Result<Tensor, ModelError> {
            let mut values = Vec::with_capacity(seats.len() * num_keys);
            for seat in seats {
                let num_left = self.layout.num_left(seat.steps);
                let num_memories = match sees_memories {
                    true => self.layout.num_memories(seat.steps),
                    false => 0,
                };
                values.extend((0..num_keys).map(|key| {
                    let hidden_memory = key < self.memories && key >= num_memories;
                    let hidden_left = key >= left_begin + num_left && key < left_begin + self.left;
                    u8::from(hidden_memory || hidden_left)
                }));
            }
            Ok(Tensor::from_vec(
                values,
                (seats.len(), 1, 1, num_keys),
                &self.device,
            )?)
        };
        let frames = query(true)?;
        if self.memories == 0 {
            return Ok(frames);
        }
        let frames = frames.broadcast_as((seats.len(), 1, own, num_keys))?;
        Ok(Tensor::cat(&[&frames.contiguous()?, &query(false)?], 2)?)
    }
}

impl StreamingEncoder for DeviceEmformer {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn products_per_step(&self) -> u64 {
        self.tensors.config.products_per_step()
    }

    fn new_state(&self) -> StateCache {
        StateCache {
            place: Some(self.arena.place()),
            ..StateCache::new(0)
        }
    }

    fn reset(&self, state: &mut StateCache) {
        if self.holds(state) {
            state.steps = 0;
        } else {
            *state = self.new_state();
        }
    }

    fn to_host(&self, state: &StateCache) -> Result<StateCache, ModelError> {
        let (expected, steps) = (self.layout.len(), state.steps);
        let mut copy = StateCache {
            steps,
            ..StateCache::new(expected)
        };
        match &state.place {
            Some(place) if place.is_in(&self.arena) => {
                let Some(slot) = place.slot() else {
                    return Ok(copy);
                };
                let (planes, seats) = (self.arena.planes(), [Seat { slot, steps }]);
                let mut parts = Vec::new();
                for plane in 0..keys(self.num_layers) {
                    let numbers = self.rows_to_read(Part::of(plane), &seats)?;
                    let part = planes.read(plane, numbers.as_ref())?;
                    parts.extend(part.map(|part| part.flatten_all()).transpose()?);
                }
                if !parts.is_empty() {
                    copy.values = Tensor::cat(&parts, 0)?.to_dtype(DType::F32)?.to_vec1()?.into();
                }
            }
            _ if state.values.len() == expected => copy.values.copy_from_slice(&state.values),
            _ => {
                return Err(ModelError::StateSize {
                    row: 0,
                    expected,
                    actual: state.values.len(),
                });
            }
        }
        Ok(copy)
    }

    fn step(&self, rows: &mut [StepRow<'_>]) -> Result<(), ModelError> {
        self.layout
            .check(&self.geometry, rows, |state| match self.holds(state) {
                true => self.layout.len(),
                false => state.values.len(),
            })?;
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.settle(rows)?;
        let mut rows: Vec<&mut StepRow<'_>> = rows.iter_mut().collect();
        let stepped: Result<Vec<Vec<f32>>, ModelError> = rows
            .chunks_mut(MAX_BATCH)
            .map(|batch| self.step_batch(batch))
            .collect();
        let outputs = match stepped {
            Ok(outputs) => outputs,
            Err(error) => {
                rows.iter_mut().for_each(|row| row.state.place = None);
                return Err(error);
            }
        };
        let output_len = self.segment * self.dim;
        let outputs = outputs
            .iter()
            .flat_map(|outputs| outputs.chunks_exact(output_len));
        for (row, output) in rows.iter_mut().zip(outputs) {
            row.state.steps += 1;
            row.output.clear();
            row.output.extend_from_slice(output);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, EncoderConfig};
    use crate::encoder::arena::tests::truncate;
    use std::collections::HashMap;

    fn tiny() -> DeviceEmformer {
        let config = serde_json::json!({
            "format": 1, "id": "tiny", "architecture": "whisper-emformer",
            "encoder": {"input_dim": 3, "dim": 4, "num_heads": 2, "ffn_dim": 5, "num_layers": 2, "segment_length": 2,
                "left_context_length": 4, "right_context_length": 1, "max_memory_size": 1, "activation": "gelu",
                "output_norm": "final", "position_period": 8},
        });
        let config = Config::from_json(&config.to_string()).unwrap();
        let EncoderConfig::WhisperEmformer(sizes) = &config.encoder else {
            panic!()
        };
        let expected = crate::encoder::emformer::expected_tensors(sizes);
        let tensors: HashMap<String, Tensor> = expected
            .iter()
            .map(|(name, shape)| {
                (
                    name.clone(),
                    Tensor::ones(shape.as_slice(), DType::F32, &Device::Cpu).unwrap(),
                )
            })
            .collect();
        let bytes = safetensors::serialize(&tensors, None).unwrap();
        let weights = Weights::from_safetensors(&bytes, &expected).unwrap();
        DeviceEmformer::new(sizes, &weights, &Device::Cpu).unwrap()
    }

    #[test]
    fn states_of_a_step_that_the_device_failed_are_refused_until_they_are_reset() {
        let encoder = tiny();
        let features = vec![0.5; encoder.geometry.values_needed(0)];
        let mut states = [encoder.new_state(), encoder.new_state()];
        let step = |states: &mut [StateCache; 2]| {
            let mut outputs = [vec![7.0], vec![7.0]];
            let mut rows: Vec<StepRow<'_>> = states
                .iter_mut()
                .zip(&mut outputs)
                .map(|(state, output)| StepRow {
                    state,
                    features: &features,
                    output,
                })
                .collect();
            let result = encoder.step(&mut rows);
            (result, outputs)
        };
        step(&mut states).0.unwrap();
        states.iter_mut().for_each(|state| encoder.reset(state));

        // What the first of them remembers is written before the other's write fails.
        truncate(&encoder.arena);
        let (result, outputs) = step(&mut states);
        assert!(matches!(result, Err(ModelError::Tensor(_))));
        assert_eq!(outputs, [[7.0], [7.0]]);
        assert_eq!(encoder.slots().in_use, 0);
        let (result, _) = step(&mut states);
        assert!(matches!(
            result,
            Err(ModelError::StateSize {
                row: 0,
                actual: 0,
                ..
            })
        ));
        states.iter_mut().for_each(|state| encoder.reset(state));

        assert_eq!(states[0], encoder.new_state());
    }
}
