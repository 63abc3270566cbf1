//! An extractor followed by frame stacking and normalisation.

use super::FeatureExtractor;
use super::cmvn::Cmvn;
use super::lfr::{FrameStacker, LfrConfig};
use crate::FrontendError;

/// Samples that go to the extractor at once; bounds the frames in between.
const CHUNK_SAMPLES: usize = 4_096;

/// Frames of `extractor`, stacked and normalised.
#[derive(Debug)]
pub(super) struct Chain<E> {
    extractor: E,
    stacker: FrameStacker,
    cmvn: Option<Cmvn>,
    /// Frames on their way to the stacker; empty between calls. Made with the first audio.
    frames: Vec<f32>,
    /// Values that it must have room for.
    max_frame_values: usize,
    frames_emitted: u64,
}

impl<E: FeatureExtractor> Chain<E> {
    pub(super) fn new(
        extractor: E,
        lfr: Option<LfrConfig>,
        cmvn: Option<Cmvn>,
    ) -> Result<Self, FrontendError> {
        let stacker = FrameStacker::new(
            lfr.unwrap_or(LfrConfig { stack: 1, stride: 1 }),
            extractor.num_features(),
        )?;
        if let Some(cmvn) = &cmvn {
            cmvn.check(stacker.num_features())?;
        }
        let shift = extractor.samples_needed_for(2) - extractor.samples_needed_for(1);
        let frames = CHUNK_SAMPLES / (shift as usize).max(1) + 2;
        Ok(Self {
            max_frame_values: frames * extractor.num_features(),
            extractor,
            stacker,
            cmvn,
            frames: Vec::new(),
            frames_emitted: 0,
        })
    }
}

impl<E: FeatureExtractor> FeatureExtractor for Chain<E> {
    fn num_features(&self) -> usize {
        self.stacker.num_features()
    }

    fn push(&mut self, samples: &[f32], features: &mut Vec<f32>) {
        let before = features.len();
        if !samples.is_empty() {
            self.frames.reserve_exact(self.max_frame_values);
        }
        for chunk in samples.chunks(CHUNK_SAMPLES) {
            self.extractor.push(chunk, &mut self.frames);
            self.stacker.push(&self.frames, features);
            self.frames.clear();
        }
        if let Some(cmvn) = &self.cmvn {
            cmvn.apply(&mut features[before..]);
        }
        self.frames_emitted += ((features.len() - before) / self.num_features()) as u64;
    }

    fn samples_needed_for(&self, frames: u64) -> u64 {
        self.extractor
            .samples_needed_for(self.stacker.frames_needed_for(frames))
    }

    fn frames_emitted(&self) -> u64 {
        self.frames_emitted
    }

    fn samples_received(&self) -> u64 {
        self.extractor.samples_received()
    }

    fn reset(&mut self) {
        self.extractor.reset();
        self.stacker.reset();
        self.frames_emitted = 0;
    }

    fn state_bytes(&self) -> usize {
        self.extractor.state_bytes()
            + self.stacker.state_bytes()
            + self.cmvn.as_ref().map_or(0, Cmvn::state_bytes)
            + size_of_val(self)
            + self.frames.capacity() * size_of::<f32>()
    }

    fn max_state_bytes(&self) -> usize {
        self.extractor.max_state_bytes()
            + self.stacker.max_state_bytes()
            + self.cmvn.as_ref().map_or(0, Cmvn::state_bytes)
            + size_of_val(self)
            + self.max_frame_values * size_of::<f32>()
    }
}
