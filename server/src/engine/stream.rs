//! One stream as its two sides see it: the client's side sends inputs and reads events, the workers' side takes
//! the core and hands it back. Between them one lock that nobody holds while computing or waiting.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::sync::Notify;

use super::core::Core;
use super::counters::count;
use super::queue::Class;
use super::{Event, Input, Shared};

/// Messages of audio are joined up to this many bytes.
const JOINED_BYTES: usize = 16 * 1024;
/// Flushes and changes that may wait before no more is read from the client.
const WAITING_CONTROLS: usize = 64;
/// Unread events that may wait before no more is read from the client.
const UNREAD_EVENTS: usize = 256;

/// Where a stream stands with the workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Waits for audio.
    Parked,
    /// In the queue, once.
    Queued,
    /// A worker has its core.
    Running,
}

/// What both sides share.
#[derive(Debug)]
pub(super) struct StreamShared {
    pub(super) id: String,
    pub(super) model: usize,
    pub(super) class: Class,
    pub(super) started: Instant,
    inner: Mutex<Inner>,
    readable: Notify,
    writable: Notify,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) place: Place,
    pub(super) core: Option<Box<Core>>,
    inbox: VecDeque<Waiting>,
    /// Units of audio in the inbox: bytes, or decoded samples.
    waiting_units: u64,
    /// Flushes, changes and stops in the inbox: each makes the stream ready at once.
    waiting_controls: usize,
    /// Units that complete the next segment, as the core said when it was parked.
    pub(super) needed_units: u64,
    /// Seconds of the client's audio at the end of the next segment.
    pub(super) next_segment_end: f64,
    units_received: u64,
    stopped: bool,
    outbox: VecDeque<Event>,
    /// The newest partial; read after `outbox`, replaced by newer ones, outdated by finals.
    partial: Option<Event>,
    /// When the oldest unread event was put down.
    unread_since: Option<Instant>,
    /// `Done` or `Error` was put down.
    ended: bool,
    /// The end came from outside the worker that may still have the core: what that says now is nobody's.
    given_up: bool,
    /// The client's side is gone.
    pub(super) abandoned: bool,
}

/// An input in the inbox.
#[derive(Debug)]
enum Waiting {
    /// Audio of one or more messages.
    Audio(BytesMut),
    /// Everything else as it came.
    Other(Input),
}

/// What a stream still has to do, seen from the inbox.
impl Inner {
    pub(super) fn is_ready(&self) -> bool {
        self.waiting_controls > 0 || self.waiting_units >= self.needed_units
    }

    /// Whether nobody waits for what a worker still finds.
    pub(super) fn is_nobodys(&self) -> bool {
        self.abandoned || self.given_up
    }

    pub(super) fn units_received(&self) -> u64 {
        self.units_received
    }

    /// The next input; audio of at most `units`.
    pub(super) fn pop(&mut self, units: u64) -> Option<Input> {
        let limit = usize::try_from(units).unwrap_or(usize::MAX);
        let next = match self.inbox.front_mut()? {
            Waiting::Audio(bytes) if bytes.len() > limit => {
                Some(Input::Audio(bytes.split_to(limit).freeze()))
            }
            Waiting::Other(Input::Samples(samples)) if samples.len() > limit => {
                let rest = samples.split_off(limit);
                Some(Input::Samples(std::mem::replace(samples, rest)))
            }
            _ => self.inbox.pop_front().map(|waiting| match waiting {
                Waiting::Audio(bytes) => Input::Audio(bytes.freeze()),
                Waiting::Other(input) => input,
            }),
        };
        match &next {
            Some(Input::Audio(bytes)) => self.waiting_units -= bytes.len() as u64,
            Some(Input::Samples(samples)) => self.waiting_units -= samples.len() as u64,
            Some(_) => self.waiting_controls -= 1,
            None => {}
        }
        next
    }

    fn push(&mut self, input: Input) {
        match &input {
            // A short message is copied behind the one before it: neither the number of messages nor the network
            // buffers that they are slices of weigh on a session (I8).
            Input::Audio(bytes) => {
                self.waiting_units += bytes.len() as u64;
                self.units_received += bytes.len() as u64;
                if let Some(Waiting::Audio(last)) = self.inbox.back_mut()
                    && last.len() + bytes.len() <= JOINED_BYTES
                {
                    last.extend_from_slice(bytes);
                } else if !bytes.is_empty() {
                    self.inbox
                        .push_back(Waiting::Audio(BytesMut::from(bytes.as_ref())));
                }
                return;
            }
            Input::Samples(samples) => {
                self.waiting_units += samples.len() as u64;
                self.units_received += samples.len() as u64;
            }
            Input::Stop => {
                self.stopped = true;
                self.waiting_controls += 1;
            }
            Input::Flush { .. } | Input::Configure { .. } => self.waiting_controls += 1,
        }
        self.inbox.push_back(Waiting::Other(input));
    }

    /// Puts events down; `false` when there was none, or nobody wants them.
    fn post(&mut self, shared: &Shared, events: impl IntoIterator<Item = Event>) -> bool {
        if self.given_up {
            return false;
        }
        let mut any = false;
        for event in events {
            if self.ended {
                debug_assert!(false, "I6: {event:?} after the end");
                count(&shared.counters.promise_end_broken);
                continue;
            }
            any = true;
            match event {
                Event::Partial(_) => {
                    if self.partial.replace(event).is_some() {
                        count(&shared.counters.partials_coalesced);
                    }
                }
                other => {
                    self.ended = matches!(other, Event::Done { .. } | Event::Error { .. });
                    if !matches!(other, Event::Warning { .. }) {
                        self.partial = None;
                    }
                    self.outbox.push_back(other);
                }
            }
        }
        if any {
            self.unread_since.get_or_insert_with(Instant::now);
        }
        any
    }
}

impl StreamShared {
    pub(super) fn new(id: String, model: usize, class: Class, core: Box<Core>) -> Self {
        let (needed_units, next_segment_end) = (core.units_needed(), core.next_segment_end());
        Self {
            id,
            model,
            class,
            started: Instant::now(),
            inner: Mutex::new(Inner {
                place: Place::Parked,
                core: Some(core),
                inbox: VecDeque::new(),
                waiting_units: 0,
                waiting_controls: 0,
                needed_units,
                next_segment_end,
                units_received: 0,
                stopped: false,
                outbox: VecDeque::new(),
                partial: None,
                unread_since: None,
                ended: false,
                given_up: false,
                abandoned: false,
            }),
            readable: Notify::new(),
            writable: Notify::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing under this lock computes; if it ever panicked, the counts are still usable.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts events down for the client. Partials replace each other, everything else stays in order.
    pub(super) fn post(&self, shared: &Shared, events: impl IntoIterator<Item = Event>) {
        let mut inner = self.lock();
        let any = inner.post(shared, events);
        drop(inner);
        if any {
            self.readable.notify_one();
        }
    }

    #[cfg(test)]
    pub(super) fn has_ended(&self) -> bool {
        self.lock().ended
    }

    /// Ends the stream with an error unless it has ended; its core, if parked here, goes back to the pool.
    pub(super) fn fail(&self, shared: &Shared, code: crate::wire::code::ErrorCode, message: &str) {
        let core = {
            let mut inner = self.lock();
            if !inner.ended {
                count(&shared.counters.streams_failed);
                let message = message.to_owned();
                inner.post(shared, [Event::Error { code, message }]);
            }
            inner.given_up = true;
            inner.inbox.clear();
            inner.core.take()
        };
        // Outside the lock: the slot goes back to the pool.
        drop(core);
        self.readable.notify_one();
        self.writable.notify_waiters();
    }

    /// Room may have appeared in the inbox.
    pub(super) fn drained(&self) {
        self.writable.notify_waiters();
    }

    /// Queues an input and, where that makes it ready, the stream.
    pub(super) fn push(self: &Arc<Self>, shared: &Shared, input: Input) -> Result<(), Closed> {
        let mut inner = self.lock();
        if inner.ended || inner.stopped {
            return Err(Closed);
        }
        inner.push(input);
        if inner.place == Place::Parked && inner.is_ready() {
            inner.place = Place::Queued;
            let end = inner.next_segment_end;
            drop(inner);
            shared.enqueue(self, end);
        }
        Ok(())
    }
}

/// The stream has ended or was told to stop: nothing more is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stream takes no more input")]
pub struct Closed;

/// The client's side of a stream. Dropping it ends the stream and frees its slot, at the latest when the step it is
/// in is over.
#[derive(Debug)]
pub struct Stream {
    pub(super) shared: Arc<StreamShared>,
    pub(super) engine: Arc<Shared>,
    pub(super) units_per_second: f64,
}

impl Stream {
    /// Name of the stream, unique in this process.
    pub fn id(&self) -> &str {
        &self.shared.id
    }

    /// Id of its model.
    pub fn model_id(&self) -> &str {
        self.engine.model(self.shared.model).id()
    }

    /// Queues an input; never blocks. The caller waits for [`writable`](Self::writable) before it reads more audio
    /// from its client.
    ///
    /// # Errors
    /// [`Closed`] after `Stop` or after the end.
    pub fn send(&self, input: Input) -> Result<(), Closed> {
        self.shared.push(&self.engine, input)
    }

    /// Seconds of audio that wait to be computed.
    pub fn backlog_seconds(&self) -> f64 {
        self.shared.lock().waiting_units as f64 / self.units_per_second
    }

    /// Whether audio, requests and unread events that wait are all below their bounds, so that more may be read from
    /// the client. A segment that lacks audio gets it, however short the bound; an ended stream holds nobody.
    pub fn is_writable(&self) -> bool {
        let bound = self.engine.options.backlog.as_secs_f64() * self.units_per_second;
        let inner = self.shared.lock();
        let audio_fits = (inner.waiting_units as f64) < bound
            || (inner.place == Place::Parked && inner.waiting_units < inner.needed_units);
        inner.ended
            || (audio_fits && inner.waiting_controls < WAITING_CONTROLS && inner.outbox.len() < UNREAD_EVENTS)
    }

    /// Completes once the stream [is writable](Self::is_writable).
    pub async fn writable(&self) {
        loop {
            let room = self.shared.writable.notified();
            tokio::pin!(room);
            // Registered before the check, so that room made in between is not missed.
            room.as_mut().enable();
            if self.is_writable() {
                return;
            }
            room.await;
        }
    }

    /// The next event in order; `None` after the last. Cancelling it loses nothing.
    pub async fn next_event(&self) -> Option<Event> {
        loop {
            {
                let mut inner = self.shared.lock();
                let next = inner.outbox.pop_front().or_else(|| inner.partial.take());
                if next.is_some() {
                    let empty = inner.outbox.is_empty() && inner.partial.is_none();
                    inner.unread_since = (!empty).then(Instant::now);
                    let had_no_room = inner.outbox.len() + 1 == UNREAD_EVENTS;
                    drop(inner);
                    if had_no_room {
                        self.shared.writable.notify_waiters();
                    }
                    return next;
                }
                if inner.ended {
                    return None;
                }
            }
            self.shared.readable.notified().await;
        }
    }

    /// How long the oldest unread event has been waiting.
    pub fn unread_for(&self) -> Duration {
        self.shared
            .lock()
            .unread_since
            .map_or(Duration::ZERO, |since| since.elapsed())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let (core, ended) = {
            let mut inner = self.shared.lock();
            inner.abandoned = true;
            inner.inbox.clear();
            (inner.core.take(), inner.ended)
        };
        // Outside the lock: the slot goes back to the pool.
        drop(core);
        if !ended {
            count(&self.engine.counters.streams_abandoned);
        }
        self.engine.forget(&self.shared.id);
    }
}
