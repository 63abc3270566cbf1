//! The core of a stream whose model cannot stream: its features wait until the audio is complete, and are encoded at once.

use super::super::{Event, Input};
use super::{Core, Next, Then};
use crate::wire::code::ErrorCode;

impl Core {
    /// As [`advance`](Core::advance), for a model that hears whole utterances: features gather until the stop, then they are one step.
    pub(super) fn advance_whole(
        &mut self,
        mut pop: impl FnMut(u64) -> Option<Input>,
        events: &mut Vec<Event>,
    ) -> Next {
        while self.completing.is_none() {
            match pop(u64::MAX) {
                None => {
                    return Next::Park {
                        units: self.units_needed(),
                    };
                }
                Some(Input::Audio(bytes)) => {
                    if let Some(pcm) = &mut self.pcm {
                        pcm.push(&bytes, &mut self.samples);
                    }
                    self.units_taken += bytes.len() as u64;
                    self.hear(events);
                }
                Some(Input::Samples(samples)) => {
                    self.units_taken += samples.len() as u64;
                    self.samples = samples;
                    self.hear(events);
                    self.samples = Vec::new();
                }
                Some(Input::Configure { transcriber, .. }) => self.transcriber.configure(transcriber),
                // Nothing can be final before everything is heard.
                Some(Input::Flush { id }) => events.push(Event::Flushed { id }),
                Some(Input::Stop) => self.complete_whole(),
            }
            if self.audio_seconds() > self.whole_limit.as_secs_f64() {
                return Next::Refused(ErrorCode::TooLongForModel, self.too_long());
            }
        }
        if self.timeline.received() > 0 {
            return Next::Step;
        }
        // Of nothing there is nothing to encode.
        self.complete(Then::Stop, events);
        Next::Finished
    }

    /// The features of the whole utterance, `(frames + look-ahead, features) f32`; only after [`Next::Step`].
    pub(in super::super) fn whole_features(&self) -> &[f32] {
        &self.features
    }

    /// Takes what the encoder made of the whole utterance; `false` when it is not all numbers.
    pub(in super::super) fn take_log_probs(&mut self, log_probs: Vec<f32>) -> bool {
        self.log_probs = log_probs;
        self.features = Vec::new();
        self.is_finite()
    }

    /// Decodes the whole utterance and says `done`.
    pub(in super::super) fn stepped_whole(&mut self, events: &mut Vec<Event>) {
        let mut finals = Vec::new();
        // Nobody else waits for this thread.
        self.transcriber.accept(&self.log_probs, &mut finals);
        for utterance in &finals {
            self.push_final(utterance, events);
        }
        self.complete(Then::Stop, events);
    }

    /// Appends the silence that brings the last sample through the resampler and into a frame, and the look-ahead behind it.
    fn complete_whole(&mut self) {
        let geometry = self.model.geometry();
        let subsampling = geometry.subsampling as u64;
        let frames = (self.audio_seconds() / self.frame_seconds() - 1e-9)
            .ceil()
            .max(0.0) as u64;
        let frames = frames.next_multiple_of(subsampling) + geometry.lookahead_frames as u64;
        let missing = frames.saturating_sub(self.frontend.frames_emitted());
        if missing > 0 && self.timeline.received() > 0 {
            let silence = self.frontend.samples_needed_for(missing);
            self.frontend.push_silence(silence, &mut self.features);
            self.timeline.insert_silence(silence);
        }
        self.completing = Some((0, Then::Stop));
    }

    fn too_long(&self) -> String {
        format!(
            "`{}` hears a recording as a whole, at most {} s of it, and this one is longer: cut it into parts, or name a model \
             that streams",
            self.model.id(),
            self.whole_limit.as_secs()
        )
    }
}
