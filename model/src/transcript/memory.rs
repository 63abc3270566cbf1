//! What a transcriber holds, and the most that it ever does.

use std::time::Duration;

use super::{Decoder, Transcriber, frame_duration};
use crate::ctc::{Decoding, Fusion, PrefixBeam, SecondPass};
use crate::endpoint::{Endpointing, frames_in};
use crate::hypothesis::Hypothesis;
use crate::tokens::Tokens;
use crate::transducer::{Networks, Stage};

impl Transcriber {
    /// Bytes held now, the shared tokens not counted.
    pub fn state_bytes(&self) -> usize {
        let search = match &self.decoder {
            Decoder::Greedy => 0,
            Decoder::Beam(search) => size_of_val(&**search) + search.heap_bytes(),
            Decoder::Transducer(stage) => size_of_val(&**stage) + stage.heap_bytes(),
        };
        let second_pass = self.second_pass.as_deref();
        let kept = second_pass.map_or(0, |kept| size_of_val(kept) + kept.heap_bytes());
        size_of_val(self) + self.hypothesis.heap_bytes() + search + kept
    }

    /// The most that [`state_bytes`](Self::state_bytes) can become, with the longest utterances that are accepted
    /// and a token in every frame of them. `heard_len` is the size of the features of a frame that a text scorer hears, 0 without one.
    pub fn max_state_bytes(
        tokens: &Tokens,
        frame_seconds: f64,
        decoding: &Decoding,
        heard_len: usize,
    ) -> usize {
        let longest = Duration::from_millis(u64::from(*Endpointing::MAX_UTTERANCE_MS.end()));
        let frame = frame_duration(frame_seconds);
        let frames = frames_in(longest, frame);
        // One more for a word separator that was heard before the utterance began.
        let num_tokens = usize::try_from(frames).unwrap_or(usize::MAX).saturating_add(1);
        let search = match decoding.bounded().beam_width {
            1 => 0,
            _ => {
                size_of::<PrefixBeam<Fusion>>()
                    + PrefixBeam::<Fusion>::max_heap_bytes(tokens, &decoding.pruning(frame))
            }
        };
        let decoding = decoding.bounded();
        let has_second_pass = decoding.beam_width > 1 && decoding.second_pass_width > decoding.beam_width;
        let heard_len = if decoding.rescoring_weight > 0.0 {
            heard_len
        } else {
            0
        };
        let kept = if has_second_pass {
            size_of::<SecondPass<Fusion>>()
                + SecondPass::<Fusion>::max_heap_bytes(tokens, &decoding.pruning(frame), frame, heard_len)
        } else {
            0
        };
        size_of::<Self>()
            .saturating_add(Hypothesis::max_heap_bytes(num_tokens, tokens.longest_spelling()))
            .saturating_add(search)
            .saturating_add(kept)
    }

    /// As [`max_state_bytes`](Self::max_state_bytes), for a transducer.
    pub fn max_transducer_state_bytes(tokens: &Tokens, networks: &Networks, decoding: &Decoding) -> usize {
        let config = networks.config();
        let heard = Hypothesis::max_heap_bytes(Stage::most_tokens(config), tokens.longest_spelling());
        size_of::<Self>()
            .saturating_add(size_of::<Stage>())
            .saturating_add(heard)
            .saturating_add(Stage::max_heap_bytes(config, &decoding.bounded()))
    }
}
