//! What a stream has said and its client has not read: everything in its order, but for partials, which replace each
//! other.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::counters::{Counters, count};
use super::inbox::most_slots;
use super::{Event, Utterance};

/// Unread events that may wait before no more is read from the client.
pub(super) const UNREAD_EVENTS: usize = 256;
/// Bytes of unread events that may wait before no more is read from the client.
pub(super) const UNREAD_BYTES: usize = 64 * 1024;

/// Unread events.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    events: VecDeque<Event>,
    /// Bytes on the heap behind `events`.
    event_bytes: usize,
    /// The newest partial; read after `events`, replaced by newer ones, outdated by finals.
    partial: Option<Event>,
    /// When the oldest unread event was put down.
    unread_since: Option<Instant>,
    /// `Done` or `Error` was put down.
    ended: bool,
}

impl Outbox {
    /// Whether `Done` or `Error` was put down: nothing can follow.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether so little is unread that more may be heard.
    pub(super) fn has_room(&self) -> bool {
        self.events.len() < UNREAD_EVENTS && self.event_bytes < UNREAD_BYTES
    }

    /// Puts events down; `false` when there was none.
    pub(super) fn post(&mut self, counters: &Counters, events: impl IntoIterator<Item = Event>) -> bool {
        let mut any = false;
        for event in events {
            if self.ended {
                debug_assert!(false, "I6: {event:?} after the end");
                count(&counters.promise_end_broken);
                continue;
            }
            any = true;
            match event {
                Event::Partial(_) => {
                    if self.partial.replace(event).is_some() {
                        count(&counters.partials_coalesced);
                    }
                }
                other => {
                    self.ended = matches!(other, Event::Done { .. } | Event::Error { .. });
                    if !matches!(other, Event::Warning { .. }) {
                        self.partial = None;
                    }
                    self.event_bytes += other.heap_bytes();
                    self.events.push_back(other);
                }
            }
        }
        if any {
            self.unread_since.get_or_insert_with(Instant::now);
        }
        any
    }

    /// The next event to read.
    pub(super) fn pop(&mut self) -> Option<Event> {
        let next = match self.events.pop_front() {
            Some(event) => {
                self.event_bytes -= event.heap_bytes();
                Some(event)
            }
            None => self.partial.take(),
        };
        if next.is_some() {
            let empty = self.events.is_empty() && self.partial.is_none();
            self.unread_since = (!empty).then(Instant::now);
        }
        next
    }

    /// How long the oldest unread event has been waiting.
    pub(super) fn unread_for(&self) -> Duration {
        self.unread_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        self.events.capacity() * size_of::<Event>()
            + self.event_bytes
            + self.partial.as_ref().map_or(0, Event::heap_bytes)
    }

    /// The most that [`heap_bytes`](Self::heap_bytes) can be when, after the outbox was full, a further `words` words
    /// are said in `finals` utterances, `controls` requests with ids of `control_bytes` in all are answered, and a
    /// partial has `partial_words`. A word has at most `longest_word` bytes; a final has `alternatives`, itself one of
    /// them.
    pub(super) fn max_heap_bytes(
        words: usize,
        finals: usize,
        partial_words: usize,
        longest_word: usize,
        alternatives: usize,
        controls: usize,
        control_bytes: usize,
    ) -> usize {
        // Each word has its own text and stands in the text of its utterance, and so in that of each alternative.
        let word_bytes = size_of::<super::Word>() + longest_word + (longest_word + 1) * alternatives;
        let events = most_slots(UNREAD_EVENTS + finals + controls + REMARKS);
        UNREAD_BYTES
            + (words + partial_words) * word_bytes
            + control_bytes
            + REMARKS * REMARK_BYTES
            + finals * alternatives * size_of::<super::Alternative>()
            + events * size_of::<Event>()
    }
}

/// Warnings of the engine and the last event of a stream, which can come on top of what the client asked for.
const REMARKS: usize = 4;
/// Longest text of one.
const REMARK_BYTES: usize = 256;

impl Event {
    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Self::Partial(utterance) | Self::Final(utterance) => utterance.heap_bytes(),
            Self::Flushed { id } => id.as_ref().map_or(0, String::capacity),
            Self::Warning { message, .. } | Self::Error { message, .. } => message.capacity(),
            Self::Done { .. } => 0,
        }
    }
}

impl Utterance {
    fn heap_bytes(&self) -> usize {
        let spellings: usize = self.words.iter().map(|word| word.word.capacity()).sum();
        let texts: usize = self.alternatives.iter().map(|other| other.text.capacity()).sum();
        let others = self.alternatives.capacity() * size_of::<super::Alternative>() + texts;
        self.text.capacity() + self.words.capacity() * size_of::<super::Word>() + spellings + others
    }
}
