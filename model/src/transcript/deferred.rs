//! Judgements that wait: frames are taken up to the one behind which an utterance is to be judged, and whoever feeds the transcriber chooses
//! when that is done.
//!
//! A frame costs microseconds, a judgement a good part of a second of speech. Who serves many streams takes the frames of all of them first, shows what has been
//! heard, and judges when nobody else is in a hurry. What is said in the end is the same.

use super::{Transcriber, Utterance};

/// What is to be judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// The words of a long utterance that end at this output frame or before.
    Commit { until: u64 },
    /// The utterance, which is over.
    End,
    /// The utterance up to its last complete word: it has reached its limit.
    Cut,
}

impl Transcriber {
    /// Takes frames as [`accept_heard`](Self::accept_heard) does, but only up to the first one behind which a judgement is due; gives how many it took. The rest is
    /// to be offered again after [`judge`](Self::judge). Takes nothing while a judgement is due.
    pub fn take(&mut self, log_probs: &[f32], features: &[f32], finals: &mut Vec<Utterance>) -> usize {
        let width = self.frame_width();
        debug_assert_eq!(log_probs.len() % width, 0, "log-probs must be whole frames");
        let (len, beside) = (self.heard_len(), self.beside_classes());
        for (index, row) in log_probs.chunks_exact(width).enumerate() {
            if self.is_due() {
                return index;
            }
            let (frame, behind) = row.split_at(width - beside);
            let heard = match beside {
                0 => features.get(index * len..(index + 1) * len).unwrap_or_default(),
                // Where nothing is judged, nothing is kept.
                _ => behind.get(..len).unwrap_or_default(),
            };
            self.accept_frame(frame, heard);
            if !self.is_due() {
                finals.extend(self.end_if_over());
            }
        }
        log_probs.len() / width
    }

    /// Whether a judgement is due. Until it is done the transcriber shows what the first pass heard.
    pub fn is_due(&self) -> bool {
        self.due.is_some()
    }

    /// Does the judgement that is due, if one is, and appends the utterance that ends with it. Another one may be due then.
    pub fn judge(&mut self, finals: &mut Vec<Utterance>) {
        let ended = match self.due.take() {
            None => return,
            Some(Due::Commit { until }) => {
                self.commit(until);
                self.end_if_over()
            }
            Some(Due::End) => self.finish(),
            Some(Due::Cut) => {
                let ended = self.end_at_word();
                self.count(ended)
            }
        };
        finals.extend(ended);
    }

    /// Makes the judgement due that [`finish`](Self::finish) would do; `false` where it would do none.
    pub fn begin_finish(&mut self) -> bool {
        if self.has_to_judge() {
            self.due = Some(Due::End);
        }
        self.is_due()
    }

    /// Whether ending the utterance here takes a judgement.
    pub(super) fn has_to_judge(&self) -> bool {
        self.is_rescoring() && self.second_pass.as_ref().is_some_and(|kept| kept.frames() > 0)
    }
}
