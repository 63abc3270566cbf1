//! One stream as its two sides see it: the client's side sends inputs and reads events, the workers' side takes
//! the core and hands it back. Between them one lock that nobody holds while computing or waiting.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use waxwing_model::transcript::TranscriberOptions;

use super::core::Core;
use super::counters::count;
use super::inbox::Inbox;
use super::memory::SessionBytes;
use super::options::StreamRequest;
use super::outbox::Outbox;
use super::queue::{Class, Work};
use super::{Event, Input, Shared};

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
    /// Bytes that it may hold (I8); more when it is told to search wider.
    pub(super) bytes_bound: AtomicUsize,
    inner: Mutex<Inner>,
    readable: Notify,
    writable: Notify,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) place: Place,
    pub(super) core: Option<Box<Core>>,
    inbox: Inbox,
    outbox: Outbox,
    /// Units that complete the next segment, as the core said when it was parked.
    pub(super) needed_units: u64,
    /// Seconds of the client's audio at the end of the next segment.
    pub(super) next_segment_end: f64,
    stopped: bool,
    /// The end came from outside the worker that may still have the core: what that says now is nobody's.
    given_up: bool,
    /// The client's side is gone.
    pub(super) abandoned: bool,
}

impl Inner {
    /// Whether a step, an answer or a change can be made of what waits.
    pub(super) fn is_ready(&self) -> bool {
        self.inbox.has_controls() || self.inbox.units() >= self.needed_units
    }

    /// Whether nobody waits for what a worker still finds.
    pub(super) fn is_nobodys(&self) -> bool {
        self.abandoned || self.given_up
    }

    pub(super) fn units_received(&self) -> u64 {
        self.inbox.units_received()
    }

    /// The next input; audio of at most `units`.
    pub(super) fn pop(&mut self, units: u64) -> Option<Input> {
        self.inbox.pop(units)
    }

    /// Bytes on the heap, the core's not counted.
    pub(super) fn heap_bytes(&self) -> usize {
        self.inbox.heap_bytes() + self.outbox.heap_bytes()
    }

    /// Puts events down; `false` when there was none, or nobody wants them.
    fn post(&mut self, shared: &Shared, events: impl IntoIterator<Item = Event>) -> bool {
        !self.given_up && self.outbox.post(&shared.counters, events)
    }
}

impl StreamShared {
    pub(super) fn new(id: String, model: usize, class: Class, core: Box<Core>, bytes_bound: usize) -> Self {
        let (needed_units, next_segment_end) = (core.units_needed(), core.next_segment_end());
        Self {
            id,
            model,
            class,
            started: Instant::now(),
            bytes_bound: AtomicUsize::new(bytes_bound),
            inner: Mutex::new(Inner {
                place: Place::Parked,
                core: Some(core),
                inbox: Inbox::default(),
                outbox: Outbox::default(),
                needed_units,
                next_segment_end,
                stopped: false,
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
        self.lock().outbox.has_ended()
    }

    /// Ends the stream with an error unless it has ended; its core, if parked here, goes back to the pool.
    pub(super) fn fail(&self, shared: &Shared, code: crate::wire::code::ErrorCode, message: &str) {
        let core = {
            let mut inner = self.lock();
            if !inner.outbox.has_ended() {
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
        if inner.outbox.has_ended() || inner.stopped {
            return Err(Closed);
        }
        inner.stopped = matches!(input, Input::Stop);
        inner.inbox.push(input);
        if inner.place == Place::Parked && inner.is_ready() {
            inner.place = Place::Queued;
            let end = inner.next_segment_end;
            drop(inner);
            shared.enqueue(self, Work::Step, end);
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
    pub(super) request: StreamRequest,
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
        if let Input::Configure { transcriber, .. } = &input
            && (transcriber.decoding != self.request.transcriber.decoding || transcriber.hotwords.is_some())
        {
            self.allow_bytes_for(transcriber);
        }
        self.shared.push(&self.engine, input)
    }

    /// Raises the bound of bytes to that of a stream that was opened with these options.
    fn allow_bytes_for(&self, transcriber: &TranscriberOptions) {
        let request = StreamRequest {
            transcriber: transcriber.clone(),
            ..self.request.clone()
        };
        let model = self.engine.model(self.shared.model);
        // The same rate could be served when the stream was opened.
        if let Ok(bound) = SessionBytes::of(model.as_ref(), &self.engine.options, &request) {
            self.shared.bytes_bound.fetch_max(bound.most, Relaxed);
        }
    }

    /// Seconds of audio that wait to be computed.
    pub fn backlog_seconds(&self) -> f64 {
        self.shared.lock().inbox.units() as f64 / self.units_per_second
    }

    /// Whether audio, requests and unread events that wait are all below their bounds, so that more may be read from
    /// the client. A segment that lacks audio gets it, however short the bound; an ended stream holds nobody.
    pub fn is_writable(&self) -> bool {
        let bound = self.engine.options.backlog.as_secs_f64() * self.units_per_second;
        let inner = self.shared.lock();
        let waiting = inner.inbox.units();
        let audio_fits =
            (waiting as f64) < bound || (inner.place == Place::Parked && waiting < inner.needed_units);
        inner.outbox.has_ended() || (audio_fits && inner.inbox.takes_controls() && inner.outbox.has_room())
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
                let had_room = inner.outbox.has_room();
                if let Some(event) = inner.outbox.pop() {
                    let has_room_again = !had_room && inner.outbox.has_room();
                    drop(inner);
                    if has_room_again {
                        self.shared.writable.notify_waiters();
                    }
                    return Some(event);
                }
                if inner.outbox.has_ended() {
                    return None;
                }
            }
            self.shared.readable.notified().await;
        }
    }

    /// Bytes held for the stream now, its core left out while a worker has it.
    #[cfg(test)]
    pub(super) fn bytes_held(&self) -> usize {
        let inner = self.shared.lock();
        let core = inner.core.as_ref().map_or(0, |core| core.bytes_held());
        size_of::<StreamShared>() + core + inner.heap_bytes()
    }

    /// How long the oldest unread event has been waiting.
    pub fn unread_for(&self) -> Duration {
        self.shared.lock().outbox.unread_for()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let (core, ended) = {
            let mut inner = self.shared.lock();
            inner.abandoned = true;
            inner.inbox.clear();
            (inner.core.take(), inner.outbox.has_ended())
        };
        // Outside the lock: the slot goes back to the pool.
        drop(core);
        if !ended {
            count(&self.engine.counters.streams_abandoned);
        }
        self.engine.forget(&self.shared.id);
    }
}
