//! Where in a stream's own audio an encoder frame lies, although silence was inserted at flushes.

use std::collections::VecDeque;

/// Maps positions in what the front end heard (audio and inserted silence) to positions in what the client sent.
///
/// Positions are samples at the stream's input rate. A position inside an inserted silence maps to the point
/// where it was inserted, so mapped times never exceed the audio received before them and never decrease.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Timeline {
    /// Samples that the client sent and the front end took.
    received: u64,
    /// Samples of silence inserted in all.
    inserted: u64,
    /// Silence that a query may still meet: where it begins in what was heard, and its length.
    silences: VecDeque<(u64, u64)>,
    /// Silence before all of `silences`.
    forgotten: u64,
}

impl Timeline {
    /// Counts samples of the client's audio.
    pub fn receive(&mut self, samples: u64) {
        self.received += samples;
    }

    /// Counts samples of inserted silence.
    pub fn insert_silence(&mut self, samples: u64) {
        if samples > 0 {
            self.silences.push_back((self.received + self.inserted, samples));
            self.inserted += samples;
        }
    }

    /// Samples that the client sent so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The client's position for a position in what was heard; at most what was received.
    pub fn client_position(&self, heard: u64) -> u64 {
        let mut before = self.forgotten;
        for &(start, length) in &self.silences {
            if heard < start {
                break;
            }
            before += length.min(heard - start);
        }
        heard.saturating_sub(before).min(self.received)
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.silences.capacity() * size_of::<(u64, u64)>()
    }

    /// Drops what only positions before `heard` need, so that endless streams stay small.
    pub fn forget_before(&mut self, heard: u64) {
        while let Some(&(start, length)) = self.silences.front() {
            if start + length > heard {
                break;
            }
            self.forgotten += length;
            self.silences.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Timeline;

    #[test]
    fn times_after_a_flush_leave_its_silence_out() {
        let mut timeline = Timeline::default();
        timeline.receive(1000);
        timeline.insert_silence(500);
        timeline.receive(1000);
        assert_eq!(timeline.client_position(900), 900);
        assert_eq!(timeline.client_position(1200), 1000);
        assert_eq!(timeline.client_position(1600), 1100);
        timeline.forget_before(1500);
        assert_eq!(timeline.client_position(1600), 1100);
    }

    proptest! {
        #[test]
        fn times_never_decrease_and_never_pass_the_audio(
            steps in prop::collection::vec((0_u64..2000, 0_u64..900), 1..40),
        ) {
            let mut timeline = Timeline::default();
            let (mut heard, mut last) = (0, 0);
            for (audio, silence) in steps {
                timeline.receive(audio);
                timeline.insert_silence(silence);
                let end = heard + audio + silence;
                for at in [heard, heard + audio / 2, heard + audio, end] {
                    let position = timeline.client_position(at);
                    prop_assert!(position >= last && position <= timeline.received());
                    last = position;
                }
                // Everything that was sent is reached once everything is heard.
                prop_assert_eq!(timeline.client_position(end), timeline.received());
                timeline.forget_before(heard);
                heard = end;
            }
        }
    }
}
