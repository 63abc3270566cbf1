//! Streaming encoders: one trait for every architecture that can be served live.
//!
//! An encoder holds weights only and is shared by all workers. What a session has heard lives in its
//! [`StateCache`], a value that travels with the session: a worker that holds it may step it, nobody else
//! can. So sessions of any age batch together and a result can never reach the wrong session. The values lie in host memory or,
//! for an encoder that runs on a device, there; either way [`StreamingEncoder::to_host`] gives what can be serialised.

mod arena;
pub mod csr;
pub mod emformer;
pub mod fsmn;
pub mod head;
pub(crate) mod kernels;
pub mod recurrent;
pub mod sanm;
pub(crate) mod scratch;
pub mod skim;

use std::collections::BTreeMap;

use candle_core::Tensor;

pub use self::arena::ArenaSlots;
use self::arena::Place;
use crate::error::ModelError;

/// What one step of an encoder consumes and produces. All lengths in feature frames unless said otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Geometry {
    /// Values of one feature frame.
    pub num_features: usize,
    /// Feature frames that a step advances by; `subsampling` for an encoder that cannot stream.
    pub segment_frames: usize,
    /// Feature frames past the end of a segment that its step must see: stem look-ahead and right context.
    pub lookahead_frames: usize,
    /// Feature frames for one output frame; divides `segment_frames`.
    pub subsampling: usize,
    /// Values of one output frame: encoder dims, or classes after a head ([`head::WithHead`]).
    pub output_dim: usize,
}

impl Geometry {
    /// Output frames of one step.
    pub fn output_frames(&self) -> usize {
        self.segment_frames / self.subsampling
    }

    /// Feature frames that the next step of a session needs: the first step also fills the look-ahead, later
    /// ones find it in the state cache.
    pub fn frames_needed(&self, steps_done: u64) -> usize {
        if steps_done == 0 {
            self.segment_frames + self.lookahead_frames
        } else {
            self.segment_frames
        }
    }

    /// As [`frames_needed`](Self::frames_needed), in values.
    pub(crate) fn values_needed(&self, steps_done: u64) -> usize {
        self.frames_needed(steps_done) * self.num_features
    }
}

/// All that an encoder remembers of one session: a flat buffer whose layout the encoder owns, and how many
/// steps it has seen. It cannot be cloned, since what lies on a device has one owner.
#[derive(Debug, PartialEq)]
pub struct StateCache {
    /// Rings of keys, values, memories, carried frames: the encoder's own layout. Empty where they lie on a device.
    pub values: Box<[f32]>,
    /// Steps since the last reset. Rings take their valid lengths and positions from it.
    pub steps: u64,
    /// Where the values lie instead, for an encoder that keeps them on a device.
    pub(crate) place: Option<Place>,
}

impl StateCache {
    /// A state of so many zeros in host memory that has seen nothing.
    pub fn new(len: usize) -> Self {
        Self {
            values: vec![0.0; len].into_boxed_slice(),
            steps: 0,
            place: None,
        }
    }

    /// Bytes of its values in host memory.
    pub fn host_bytes(&self) -> usize {
        size_of_val(&*self.values)
    }

    /// Bytes of its values on a device, from its first step on.
    pub fn device_bytes(&self) -> usize {
        self.place.as_ref().map_or(0, Place::bytes)
    }
}

/// One session's part of a batched step.
#[derive(Debug)]
pub struct StepRow<'a> {
    /// The session's state, advanced in place.
    pub state: &'a mut StateCache,
    /// New feature frames, `(frames_needed, features) f32` row-major.
    pub features: &'a [f32],
    /// Receives `(output_frames, output_dim) f32` row-major; cleared first.
    pub output: &'a mut Vec<f32>,
}

/// A live encoder. It holds weights only: any thread may step any session's state, several threads at once.
pub trait StreamingEncoder: Send + Sync {
    /// What a step consumes and produces.
    fn geometry(&self) -> &Geometry;

    /// Multiplications of two `f32` in the matrix products of one session's step, for comparing with what the
    /// machine can do. Attention is counted with full rings.
    fn products_per_step(&self) -> u64;

    /// Allocates the state of a new session; on a device that happens at its first step.
    fn new_state(&self) -> StateCache;

    /// Makes a state as good as new, whatever it holds. Does not allocate.
    fn reset(&self, state: &mut StateCache) {
        state.values.fill(0.0);
        state.steps = 0;
    }

    /// A copy of a state whose values are in host memory, in the encoder's layout: to be written down, or to be stepped by this executor
    /// or another of that layout. Waits for the device where there is one.
    ///
    /// # Errors
    /// [`ModelError::StateSize`] for another encoder's state, [`ModelError::Tensor`] when a device fails.
    fn to_host(&self, state: &StateCache) -> Result<StateCache, ModelError> {
        Ok(StateCache {
            values: state.values.clone(),
            steps: state.steps,
            place: None,
        })
    }

    /// Advances every row by one segment: compact, in any order, sessions of any age together. A row's output and
    /// state do not depend on the other rows, not even when those hold NaN (promise I3: within 1e-4).
    ///
    /// # Errors
    /// [`ModelError::FeatureCount`], [`ModelError::StateSize`] and [`ModelError::DeviceFull`]; then no state has been changed. After
    /// [`ModelError::Tensor`], when a device fails, no output has been written, and what a state had on the device may be lost: it is
    /// refused then until it is reset.
    fn step(&self, rows: &mut [StepRow<'_>]) -> Result<(), ModelError>;
}

/// An encoder of whole utterances: the oracle of a streaming one, or the only form of one that cannot stream.
pub trait OfflineEncoder: Send + Sync {
    /// What it consumes and produces, without a head.
    fn geometry(&self) -> &Geometry;

    /// Encodes `features (batch, frames + look-ahead, features)`, of any float type, into `(batch, output frames,
    /// dim)` of the weights' type and the output frames of each item. The look-ahead is [`Geometry::lookahead_frames`];
    /// `lengths` do not count it. Callers have checked rank, width and lengths (`encode` does).
    ///
    /// # Errors
    /// [`ModelError::Input`] for what this architecture cannot take.
    fn forward(&self, features: &Tensor, lengths: &[usize]) -> Result<(Tensor, Vec<usize>), ModelError>;
}

/// Whatever can be run on named tensors: a cell, a decoder, a joiner, a whole encoder with its states. Each
/// implementation documents the names it takes and gives.
pub trait Module: Send + Sync {
    /// Runs once.
    ///
    /// # Errors
    /// [`ModelError::Input`] naming the tensor that is missing or does not fit.
    fn run(&self, inputs: &BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>, ModelError>;
}

/// Checks that every row of a step fits the encoder: the state's values, of which `held` says how many there are, and the feature
/// values that so many steps call for.
pub(crate) fn check_rows_held(
    state_len: usize,
    rows: &[StepRow<'_>],
    held: impl Fn(&StateCache) -> usize,
    values_needed: impl Fn(u64) -> usize,
) -> Result<(), ModelError> {
    for (row, step) in rows.iter().enumerate() {
        let (expected, actual) = (state_len, held(step.state));
        if expected != actual {
            return Err(ModelError::StateSize {
                row,
                expected,
                actual,
            });
        }
        let expected = values_needed(step.state.steps);
        let actual = step.features.len();
        if expected != actual {
            return Err(ModelError::FeatureCount {
                row,
                expected,
                actual,
            });
        }
    }
    Ok(())
}

/// The same for states whose values are in host memory.
pub(crate) fn check_rows(
    state_len: usize,
    rows: &[StepRow<'_>],
    values_needed: impl Fn(u64) -> usize,
) -> Result<(), ModelError> {
    check_rows_held(state_len, rows, |state| state.values.len(), values_needed)
}
