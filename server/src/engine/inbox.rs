//! What a client has sent and no worker has taken: audio and requests in their order, their bytes bounded (I8).

use std::collections::VecDeque;

use bytes::Bytes;

use super::Input;

/// Audio is kept in pieces of at most this many bytes: short messages are joined, long ones cut.
pub(super) const PIECE_BYTES: usize = 16 * 1024;
/// Flushes and changes that may wait before no more is read from the client.
pub(super) const WAITING_CONTROLS: usize = 64;
/// Bytes of flushes and changes that may wait before no more is read from the client.
pub(super) const CONTROL_BYTES: usize = 64 * 1024;

/// Inputs that wait.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    waiting: VecDeque<Waiting>,
    units: u64,
    units_received: u64,
    controls: usize,
    control_bytes: usize,
}

/// An input, as it is kept.
#[derive(Debug)]
enum Waiting {
    Audio(Piece),
    Other(Input),
}

/// Audio of one or more messages, or a part of one: a copy, so that no network buffer is held by a slice of it.
#[derive(Debug)]
struct Piece {
    bytes: Vec<u8>,
    taken: usize,
}

impl Inbox {
    /// Units of audio that wait: bytes, or decoded samples.
    pub(super) fn units(&self) -> u64 {
        self.units
    }

    /// Units of audio that ever came.
    pub(super) fn units_received(&self) -> u64 {
        self.units_received
    }

    /// Whether a flush, a change or a stop waits.
    pub(super) fn has_controls(&self) -> bool {
        self.controls > 0
    }

    /// Whether further flushes and changes may come.
    pub(super) fn takes_controls(&self) -> bool {
        self.controls < WAITING_CONTROLS && self.control_bytes < CONTROL_BYTES
    }

    /// Puts an input behind the others.
    pub(super) fn push(&mut self, input: Input) {
        match &input {
            Input::Audio(bytes) => return self.push_audio(bytes),
            Input::Samples(samples) => {
                self.units += samples.len() as u64;
                self.units_received += samples.len() as u64;
            }
            Input::Flush { .. } | Input::Configure { .. } | Input::Stop => {
                self.controls += 1;
                self.control_bytes += input.heap_bytes();
                // Nothing will be joined to the audio before it any more.
                if let Some(Waiting::Audio(last)) = self.waiting.back_mut() {
                    last.bytes.shrink_to_fit();
                }
            }
        }
        self.waiting.push_back(Waiting::Other(input));
    }

    fn push_audio(&mut self, mut bytes: &[u8]) {
        self.units += bytes.len() as u64;
        self.units_received += bytes.len() as u64;
        if let Some(Waiting::Audio(last)) = self.waiting.back_mut() {
            let room = PIECE_BYTES.saturating_sub(last.bytes.len());
            let (head, rest) = bytes.split_at(room.min(bytes.len()));
            last.bytes.reserve_exact(room);
            last.bytes.extend_from_slice(head);
            bytes = rest;
        }
        for part in bytes.chunks(PIECE_BYTES) {
            self.waiting.push_back(Waiting::Audio(Piece {
                bytes: part.to_vec(),
                taken: 0,
            }));
        }
    }

    /// The next input; audio of at most `units`.
    pub(super) fn pop(&mut self, units: u64) -> Option<Input> {
        let limit = usize::try_from(units).unwrap_or(usize::MAX);
        let next = match self.waiting.front_mut()? {
            Waiting::Audio(_) => Some(Input::Audio(self.pop_audio(limit))),
            Waiting::Other(Input::Samples(samples)) if samples.len() > limit => {
                let rest = samples.split_off(limit);
                Some(Input::Samples(std::mem::replace(samples, rest)))
            }
            Waiting::Other(_) => match self.waiting.pop_front() {
                Some(Waiting::Other(input)) => Some(input),
                Some(Waiting::Audio(_)) | None => None,
            },
        };
        match &next {
            Some(Input::Audio(bytes)) => self.units -= bytes.len() as u64,
            Some(Input::Samples(samples)) => self.units -= samples.len() as u64,
            Some(control) => {
                self.controls -= 1;
                self.control_bytes -= control.heap_bytes();
            }
            None => {}
        }
        next
    }

    /// Up to `limit` bytes of the pieces at the front.
    fn pop_audio(&mut self, limit: usize) -> Bytes {
        let waiting = usize::try_from(self.units).unwrap_or(usize::MAX);
        let mut audio = Vec::with_capacity(limit.min(waiting));
        while let Some(Waiting::Audio(piece)) = self.waiting.front_mut() {
            let left = piece.bytes.get(piece.taken..).unwrap_or_default();
            let taken = left.len().min(limit - audio.len());
            audio.extend_from_slice(left.get(..taken).unwrap_or_default());
            piece.taken += taken;
            if piece.taken < piece.bytes.len() {
                break;
            }
            self.waiting.pop_front();
        }
        audio.into()
    }

    /// Throws everything away.
    pub(super) fn clear(&mut self) {
        *self = Self {
            units_received: self.units_received,
            ..Self::default()
        };
    }

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        let inputs: usize = self
            .waiting
            .iter()
            .map(|waiting| match waiting {
                Waiting::Audio(piece) => piece.bytes.capacity(),
                Waiting::Other(input) => input.heap_bytes(),
            })
            .sum();
        inputs + self.waiting.capacity() * size_of::<Waiting>()
    }

    /// The most that [`heap_bytes`](Self::heap_bytes) can be while `audio` bytes and `controls` requests of at most
    /// `control_bytes` in all wait.
    pub(super) fn max_heap_bytes(audio: usize, controls: usize, control_bytes: usize) -> usize {
        // All pieces are full but the last one and those before a request. The first is held until its last byte is
        // taken, the last one has room for more.
        let entries = audio / PIECE_BYTES + 2 + 2 * controls;
        audio + 2 * PIECE_BYTES + control_bytes + most_slots(entries) * size_of::<Waiting>()
    }
}

/// Slots of a queue that grew to `length`: it holds at most twice what it needs, or its smallest size.
pub(super) fn most_slots(length: usize) -> usize {
    2 * length.max(4)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever the sizes of messages and of what is taken, the bytes come out as they went in, and what is held
        /// stays within the bound.
        #[test]
        fn audio_comes_out_as_it_went_in(
            moves in prop::collection::vec((0_usize..40_000, 0_u64..30_000, any::<bool>()), 1..40),
        ) {
            let (mut inbox, mut sent, mut taken) = (Inbox::default(), Vec::new(), Vec::new());
            let (mut most, mut controls) = (0, 0);
            for (index, (pushed, popped, flushes)) in moves.into_iter().enumerate() {
                let audio: Vec<u8> = (0..pushed).map(|at| (at * 7 + index) as u8).collect();
                inbox.push(Input::Audio(Bytes::from(audio.clone())));
                sent.extend(audio);
                if flushes {
                    inbox.push(Input::Flush { id: Some("x".repeat(20)) });
                    controls += 1;
                }
                most = most.max(inbox.units() as usize);
                prop_assert!(inbox.heap_bytes() <= Inbox::max_heap_bytes(most, controls, 20 * controls));
                if let Some(Input::Audio(bytes)) = inbox.pop(popped.max(1)) {
                    prop_assert!(bytes.len() as u64 <= popped.max(1));
                    taken.extend_from_slice(&bytes);
                }
            }
            while let Some(input) = inbox.pop(u64::MAX) {
                if let Input::Audio(bytes) = input {
                    taken.extend_from_slice(&bytes);
                }
            }
            prop_assert!(taken == sent);
            prop_assert_eq!((inbox.units(), inbox.units_received()), (0, sent.len() as u64));
            prop_assert!(!inbox.has_controls());
        }
    }
}
