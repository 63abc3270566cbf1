//! Low frame rate: `stack` frames side by side become one, every `stride` frames.
//!
//! As FunASR does it: the first frame is repeated `(stack − 1) / 2` times in front, so that output frame *t* is centred on
//! input frame `stride · t`. (Pundak and Sainath, Lower Frame Rate Neural Network Acoustic Models, Interspeech 2016.)

use serde::{Deserialize, Serialize};

use super::check_setting;
use crate::FrontendError;

/// Settings of [`FrameStacker`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LfrConfig {
    /// Frames that are put side by side (`lfr_m`).
    pub stack: usize,
    /// Input frames from one output frame to the next (`lfr_n`).
    pub stride: usize,
}

/// Stacks the frames of one stream.
#[derive(Debug, Clone)]
pub struct FrameStacker {
    config: LfrConfig,
    num_features: usize,
    /// Input frames from the next output frame's first one on, at most `stack − 1` between calls.
    buffer: Vec<f32>,
    /// Input frames to drop before that.
    skip: usize,
    started: bool,
}

impl FrameStacker {
    /// Makes a stacker of frames of `num_features` values.
    ///
    /// # Errors
    ///
    /// [`FrontendError::FeatureSetting`].
    pub fn new(config: LfrConfig, num_features: usize) -> Result<Self, FrontendError> {
        check_setting("lfr.stack", config.stack, 1..=64, "use 1 to 64")?;
        check_setting("lfr.stride", config.stride, 1..=64, "use 1 to 64")?;
        check_setting("num_features", num_features, 1..=65_536, "use 1 to 65536")?;
        Ok(Self {
            config,
            num_features,
            buffer: Vec::new(),
            skip: 0,
            started: false,
        })
    }

    /// Values of one output frame.
    pub fn num_features(&self) -> usize {
        self.num_features * self.config.stack
    }

    /// Takes `frames`, `(frames, features) f32`, and appends the stacked ones that they complete,
    /// `(frames, stack · features) f32`, to `out`.
    pub fn push(&mut self, frames: &[f32], out: &mut Vec<f32>) {
        if !frames.is_empty() {
            self.buffer
                .reserve_exact(self.max_buffered().saturating_sub(self.buffer.len()));
        }
        for frame in frames.chunks_exact(self.num_features) {
            if self.skip > 0 {
                self.skip -= 1;
                continue;
            }
            let copies = if self.started {
                1
            } else {
                1 + (self.config.stack - 1) / 2
            };
            self.started = true;
            for _ in 0..copies {
                self.buffer.extend_from_slice(frame);
            }
            if self.buffer.len() >= self.num_features() {
                out.extend_from_slice(&self.buffer[..self.num_features()]);
                let consumed = self.config.stride.min(self.config.stack);
                self.skip = self.config.stride - consumed;
                self.buffer.drain(..consumed * self.num_features);
            }
        }
    }

    /// Input frames until `frames` more output frames are out. Exact; saturates.
    pub fn frames_needed_for(&self, frames: u64) -> u64 {
        let Some(further) = frames.checked_sub(1) else {
            return 0;
        };
        let LfrConfig { stack, stride } = self.config;
        let repeated = if self.started { 0 } else { (stack - 1) / 2 };
        let held = self.buffer.len() / self.num_features + repeated;
        let span = further.saturating_mul(stride as u64).saturating_add(stack as u64);
        span.saturating_sub(held as u64).saturating_add(self.skip as u64)
    }

    /// As new.
    pub fn reset(&mut self) {
        self.buffer.clear();
        (self.skip, self.started) = (0, false);
    }

    /// The most values that are in the buffer at once.
    fn max_buffered(&self) -> usize {
        2 * self.num_features()
    }

    /// Bytes held now.
    pub fn state_bytes(&self) -> usize {
        size_of_val(self) + self.buffer.capacity() * size_of::<f32>()
    }

    /// The most bytes that it holds: all of them from the first frame on.
    pub fn max_state_bytes(&self) -> usize {
        size_of_val(self) + self.max_buffered() * size_of::<f32>()
    }
}
