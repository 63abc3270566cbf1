//! The served FSMN: one step for a compact batch of sessions of any age, on plain slices, single-threaded.
//!
//! Linear layers run over the frames of all sessions at once; memories run session by session. Each memory keeps the frames
//! that it still needs, those back and those that wait for frames ahead, so nothing is computed twice: the look-ahead moves
//! every memory's position in the stream ahead of the next one's. A skip keeps the frames by which its source is ahead.
//!
//! Layout of a session's values: for each memory and each skip, in the order of the program, its frames, oldest first. In a first
//! step they count as zeros or as absent, whatever they hold.

use crate::config::Activation;
use crate::encoder::kernels::{Linear, Norm, activate, softmax_rows, vectorised};
use crate::encoder::scratch::ScratchPool;
use crate::encoder::{Geometry, StateCache, StepRow, StreamingEncoder, check_rows};
use crate::error::ModelError;
use crate::loader::Weights;

use super::program::{Layout, Operation, Program, Window};

/// Sessions that share one pass. Larger groups gain nothing in the products and lose the cache.
const GROUP: usize = 16;

enum Layer {
    /// Of each of a frame's parts.
    Linear {
        linear: Linear,
        rows: usize,
    },
    Windows(Window),
    /// `(rows, width)` coefficients.
    Join {
        coefficients: Vec<f32>,
        width: usize,
    },
    Memory(Memory),
    Norm(Norm),
    Activation(Activation),
    Keep {
        slot: usize,
    },
    Add(Skip),
    Softmax,
}

struct Memory {
    width: usize,
    back: usize,
    ahead: usize,
    beside: bool,
    /// Row of the window relative to the oldest that an output frame sees, and `width` coefficients.
    taps: Vec<(usize, Vec<f32>)>,
    /// Where its `(back + ahead, width)` frames lie in the state.
    begin: usize,
}

/// Where frames that were kept come back.
struct Skip {
    slot: usize,
    width: usize,
    /// Frames by which the source is ahead.
    delay: usize,
    /// Where its `(delay, width)` frames lie in the state.
    begin: usize,
}

/// An FSMN that is served: weights shared by all threads, state in each session's [`StateCache`].
pub struct Fsmn {
    geometry: Geometry,
    layers: Vec<Layer>,
    slots: usize,
    state_len: usize,
    products_per_step: u64,
    scratch: ScratchPool<Scratch>,
}

/// Buffers of one step; kept, so that a step at work allocates nothing.
#[derive(Default)]
struct Scratch {
    /// `(all sessions' frames, width)`.
    stream: Vec<f32>,
    next: Vec<f32>,
    /// Frames of each session in `stream`.
    counts: Vec<usize>,
    /// One session's frames around its new ones.
    window: Vec<f32>,
    kept: Vec<Kept>,
}

#[derive(Default)]
struct Kept {
    values: Vec<f32>,
    counts: Vec<usize>,
}

impl Fsmn {
    /// Builds the encoder of a program.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when a tensor of [`Program::expected_tensors`] is missing.
    pub fn new(program: &Program, weights: &Weights) -> Result<Self, ModelError> {
        let mut layers = Vec::new();
        let mut state_len = 0;
        let mut width = program.geometry().num_features;
        // For each slot: how far ahead of the output its frames are.
        let mut sources: Vec<usize> = Vec::new();
        let mut ahead_so_far = 0;
        for operation in program.operations() {
            layers.push(match operation {
                Operation::Linear {
                    factors,
                    bias,
                    outputs,
                    rows: parts,
                } => {
                    let inputs = factors.iter().map(|factor| factor.inputs).sum();
                    let mut rows = vec![0.0f32; inputs * outputs];
                    let mut first = 0;
                    for factor in factors {
                        let values = weights.values(&factor.name)?;
                        for output in 0..*outputs {
                            for input in 0..factor.inputs {
                                rows[output * inputs + first + input] = match factor.layout {
                                    Layout::OutputsInputs => values[output * factor.inputs + input],
                                    Layout::InputsOutputs => values[input * outputs + output],
                                };
                            }
                        }
                        first += factor.inputs;
                    }
                    let bias = match bias {
                        Some(name) => weights.values(name)?,
                        None => vec![0.0; *outputs],
                    };
                    width = outputs * parts;
                    Layer::Linear {
                        linear: Linear::new(&rows, bias, inputs),
                        rows: *parts,
                    }
                }
                Operation::Windows { window } => Layer::Windows(*window),
                Operation::Join {
                    name, width: joined, ..
                } => {
                    width = *joined;
                    Layer::Join {
                        coefficients: weights.values(&format!("{name}.weight"))?,
                        width,
                    }
                }
                Operation::Memory {
                    taps,
                    width: memory_width,
                    beside,
                } => {
                    let (back, ahead) = taps.reach();
                    let resolved = taps.resolve(weights, *memory_width)?;
                    let taps = resolved
                        .into_iter()
                        .filter_map(|tap| {
                            let row = back.checked_add_signed(tap.offset)?;
                            Some((
                                row,
                                tap.coefficients.into_iter().map(|value| value as f32).collect(),
                            ))
                        })
                        .collect();
                    let begin = state_len;
                    state_len += (back + ahead) * memory_width;
                    ahead_so_far += ahead;
                    width = if *beside { 2 * memory_width } else { *memory_width };
                    Layer::Memory(Memory {
                        width: *memory_width,
                        back,
                        ahead,
                        beside: *beside,
                        taps,
                        begin,
                    })
                }
                Operation::Norm { name, .. } => Layer::Norm(Norm::new(
                    weights.values(&format!("{name}.weight"))?,
                    weights.values(&format!("{name}.bias"))?,
                )),
                Operation::Activation(activation) => Layer::Activation(*activation),
                Operation::Keep { slot } => {
                    sources.resize(sources.len().max(slot + 1), 0);
                    sources[*slot] = ahead_so_far;
                    Layer::Keep { slot: *slot }
                }
                Operation::Add { slot } => {
                    let delay = ahead_so_far - sources.get(*slot).copied().unwrap_or(ahead_so_far);
                    let begin = state_len;
                    state_len += delay * width;
                    Layer::Add(Skip {
                        slot: *slot,
                        width,
                        delay,
                        begin,
                    })
                }
                Operation::Softmax => Layer::Softmax,
            });
        }
        Ok(Self {
            geometry: program.geometry(),
            layers,
            slots: sources.len(),
            state_len,
            products_per_step: program.products_per_step(),
            scratch: ScratchPool::default(),
        })
    }

    fn step_group(&self, rows: &mut [StepRow<'_>], scratch: &mut Scratch) {
        scratch.stream.clear();
        scratch.counts.clear();
        scratch.kept.resize_with(self.slots, Kept::default);
        for row in rows.iter() {
            scratch.stream.extend_from_slice(row.features);
            scratch
                .counts
                .push(row.features.len() / self.geometry.num_features);
        }
        let mut width = self.geometry.num_features;
        for layer in &self.layers {
            match layer {
                Layer::Linear { linear, rows: parts } => {
                    let count = scratch.counts.iter().sum::<usize>() * parts;
                    width = linear.outputs() * parts;
                    scratch.next.resize(count * linear.outputs(), 0.0);
                    linear.apply(count, &scratch.stream, &mut scratch.next);
                    std::mem::swap(&mut scratch.stream, &mut scratch.next);
                }
                Layer::Windows(window) => {
                    scratch.next.clear();
                    for frame in scratch.stream.chunks_exact(window.width * window.parts) {
                        for run in window.runs() {
                            scratch.next.extend_from_slice(&frame[run]);
                        }
                    }
                    std::mem::swap(&mut scratch.stream, &mut scratch.next);
                }
                Layer::Join {
                    coefficients,
                    width: joined,
                } => {
                    width = *joined;
                    join(coefficients, width, &scratch.stream, &mut scratch.next);
                    std::mem::swap(&mut scratch.stream, &mut scratch.next);
                }
                Layer::Memory(memory) => {
                    memory.run(rows, scratch);
                    width = if memory.beside {
                        2 * memory.width
                    } else {
                        memory.width
                    };
                }
                Layer::Norm(norm) => norm.apply_in_place(&mut scratch.stream),
                Layer::Activation(activation) => activate(&mut scratch.stream, *activation),
                Layer::Keep { slot } => {
                    let kept = &mut scratch.kept[*slot];
                    kept.values.clone_from(&scratch.stream);
                    kept.counts.clone_from(&scratch.counts);
                }
                Layer::Add(skip) => skip.run(rows, scratch),
                Layer::Softmax => softmax_rows(&mut scratch.stream, width),
            }
        }
        let output_len = self.geometry.segment_frames * width;
        for (row, output) in rows.iter_mut().zip(scratch.stream.chunks_exact(output_len)) {
            row.state.steps += 1;
            row.output.clear();
            row.output.extend_from_slice(output);
        }
    }
}

/// The weighted sum of each frame's parts.
fn join(coefficients: &[f32], width: usize, frames: &[f32], joined: &mut Vec<f32>) {
    joined.clear();
    joined.resize(frames.len() / coefficients.len() * width, 0.0);
    add_parts(coefficients, width, frames, joined);
}

vectorised! {
    fn add_parts(coefficients: &[f32], width: usize, frames: &[f32], joined: &mut [f32]) {
        for (frame, sum) in frames
            .chunks_exact(coefficients.len())
            .zip(joined.chunks_exact_mut(width))
        {
            for (part, row) in frame.chunks_exact(width).zip(coefficients.chunks_exact(width)) {
                for ((sum, value), coefficient) in sum.iter_mut().zip(part).zip(row) {
                    *sum += value * coefficient;
                }
            }
        }
    }
}

impl Memory {
    /// Frames in, for every session, `ahead` frames fewer out in its first step and as many later.
    fn run(&self, rows: &mut [StepRow<'_>], scratch: &mut Scratch) {
        let width = self.width;
        let held_len = (self.back + self.ahead) * width;
        let out_width = if self.beside { 2 * width } else { width };
        scratch.next.clear();
        let mut new = scratch.stream.as_slice();
        for (row, count) in rows.iter_mut().zip(&mut scratch.counts) {
            let (frames, rest) = new.split_at(*count * width);
            new = rest;
            let held = &mut row.state.values[self.begin..][..held_len];
            let window = &mut scratch.window;
            window.clear();
            if row.state.steps == 0 {
                window.resize(self.back * width, 0.0);
                *count -= self.ahead;
            } else {
                window.extend_from_slice(held);
            }
            window.extend_from_slice(frames);
            let begin = scratch.next.len();
            scratch.next.resize(begin + *count * out_width, 0.0);
            filter(self, window, &mut scratch.next[begin..], out_width);
            held.copy_from_slice(&window[window.len() - held_len..]);
        }
        std::mem::swap(&mut scratch.stream, &mut scratch.next);
    }
}

vectorised! {
    /// Writes one output frame for each frame of `window` that has all its neighbours there.
    fn filter(memory: &Memory, window: &[f32], output: &mut [f32], out_width: usize) {
        let width = memory.width;
        for (frame, out) in output.chunks_exact_mut(out_width).enumerate() {
            let sum = if memory.beside {
                let (current, sum) = out.split_at_mut(width);
                current.copy_from_slice(&window[(frame + memory.back) * width..][..width]);
                sum
            } else {
                out
            };
            for (row, coefficients) in &memory.taps {
                let values = &window[(frame + row) * width..][..width];
                for ((sum, value), coefficient) in sum.iter_mut().zip(values).zip(coefficients) {
                    *sum += value * coefficient;
                }
            }
        }
    }
}

impl Skip {
    fn run(&self, rows: &mut [StepRow<'_>], scratch: &mut Scratch) {
        let width = self.width;
        let held_len = self.delay * width;
        let kept = &scratch.kept[self.slot];
        let mut source = kept.values.as_slice();
        let mut stream = scratch.stream.as_mut_slice();
        for ((row, count), kept_count) in rows.iter_mut().zip(&scratch.counts).zip(&kept.counts) {
            let (frames, rest) = source.split_at(kept_count * width);
            source = rest;
            let (now, rest) = stream.split_at_mut(count * width);
            stream = rest;
            let held = &mut row.state.values[self.begin..][..held_len];
            let window = &mut scratch.window;
            window.clear();
            if row.state.steps > 0 {
                window.extend_from_slice(held);
            }
            window.extend_from_slice(frames);
            now.iter_mut()
                .zip(window.iter())
                .for_each(|(value, earlier)| *value += earlier);
            held.copy_from_slice(&window[window.len() - held_len..]);
        }
    }
}

impl StreamingEncoder for Fsmn {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn products_per_step(&self) -> u64 {
        self.products_per_step
    }

    fn new_state(&self) -> StateCache {
        StateCache::new(self.state_len)
    }

    fn step(&self, rows: &mut [StepRow<'_>]) -> Result<(), ModelError> {
        check_rows(self.state_len, rows, |steps| self.geometry.values_needed(steps))?;
        self.scratch.with(|scratch| {
            for group in rows.chunks_mut(GROUP) {
                self.step_group(group, scratch);
            }
        });
        Ok(())
    }
}
