//! One native session as a pure state machine: messages, events of the engine and the clock go in, actions come out.
//!
//! It knows no socket and no task, so its promises are tested as laws: exactly one `done` or `error`, then Close;
//! nothing after it.

pub mod parameters;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use bytes::Bytes;

use self::parameters::{ModelNames, Parameters, Refused};
use crate::engine::{Event, Input};
use crate::limits;
use crate::wire::code::{ErrorCode, WarningCode};
use crate::wire::native::{ClientMessage, Final, Options, ServerMessage, Start};

/// What arrives from the client.
#[derive(Debug, Clone, PartialEq)]
pub enum Incoming {
    /// Audio.
    Binary(Bytes),
    /// A control message.
    Text(String),
    /// A message above [`limits::MESSAGE_BYTES`].
    TooLarge,
}

/// What the session's task has to do, in order.
#[derive(Debug)]
pub enum Action {
    /// Tell the client.
    Send(ServerMessage),
    /// Leave the stream and open one with these parameters; then call [`Session::opened`].
    Reopen(Box<Parameters>),
    /// Change the rules of the stream from here on to those of these parameters.
    Configure(Box<Parameters>),
    /// Hand on to the stream.
    Input(Input),
    /// Close the socket with this code; nothing follows.
    Close(u16, &'static str),
}

/// How the session is to end once the stream has said its last words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// The client said `stop`.
    Done(u16),
    /// The server ends it.
    Error(ErrorCode),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No audio yet: a `start` may still come.
    Fresh,
    /// Audio flows.
    Listening,
    /// Stop is sent to the stream; its last words are awaited.
    Ending(Ending),
    /// Close is out.
    Closed,
}

/// The times that end a session by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clocks {
    /// Without audio and keepalive.
    pub idle: Duration,
    /// Altogether; zero is without end.
    pub session: Duration,
}

/// The state of one session.
#[derive(Debug)]
pub struct Session {
    models: ModelNames,
    parameters: Parameters,
    clocks: Clocks,
    phase: Phase,
    begun: Instant,
    heard: Instant,
    noticed: bool,
    started: bool,
    bad_messages: u64,
    ignored_messages: u64,
}

impl Session {
    /// A session whose stream is open with `parameters`.
    pub fn new(models: ModelNames, parameters: Parameters, clocks: Clocks, now: Instant) -> Self {
        Self {
            models,
            parameters,
            clocks,
            phase: Phase::Fresh,
            begun: now,
            heard: now,
            noticed: false,
            started: false,
            bad_messages: 0,
            ignored_messages: 0,
        }
    }

    /// What the session is set up with.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Whether Close is out.
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// Whether the end of the audio was declared: nothing that the client still sends reaches the stream.
    pub fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::Ending(_) | Phase::Closed)
    }

    /// When [`Self::tick`] has something to say next.
    pub fn deadline(&self) -> Option<Instant> {
        if !matches!(self.phase, Phase::Fresh | Phase::Listening) {
            return None;
        }
        let idle = self.heard + self.clocks.idle;
        let Some(end) = self.end() else { return Some(idle) };
        let end = if self.noticed { end } else { end - self.notice() };
        Some(idle.min(end))
    }

    /// The engine was not ready for more audio until now, so the client could not be heard: it is not idle.
    pub fn resumed(&mut self, now: Instant) {
        self.heard = now;
    }

    /// A message of the client.
    pub fn message(&mut self, message: Incoming, now: Instant, actions: &mut Vec<Action>) {
        match self.phase {
            Phase::Closed => {}
            Phase::Ending(_) => self.ignored_messages += 1,
            Phase::Fresh | Phase::Listening => match message {
                Incoming::TooLarge => self.fail(ErrorCode::MessageTooLarge, None, actions),
                Incoming::Binary(bytes) if bytes.is_empty() => self.ignored_messages += 1,
                Incoming::Binary(bytes) => {
                    self.heard = now;
                    self.phase = Phase::Listening;
                    actions.push(Action::Input(Input::Audio(bytes)));
                }
                Incoming::Text(text) if text.trim().is_empty() => self.ignored_messages += 1,
                Incoming::Text(text) => self.control(&text, now, actions),
            },
        }
    }

    /// An event of the stream.
    pub fn event(&mut self, event: Event, actions: &mut Vec<Action>) {
        if self.phase == Phase::Closed {
            return;
        }
        match event {
            Event::Partial(utterance) => {
                if self.parameters.partials {
                    actions.push(Action::Send(ServerMessage::Partial(utterance.into())));
                }
            }
            Event::Final(utterance) => {
                let message = ServerMessage::Final(Final::new(
                    utterance,
                    self.parameters.words,
                    self.parameters.formatted,
                ));
                actions.push(Action::Send(message));
            }
            Event::Flushed { id } => actions.push(Action::Send(ServerMessage::Flushed { id })),
            Event::Warning { code, message } => {
                actions.push(Action::Send(ServerMessage::Warning { code, message }));
            }
            Event::Done {
                audio_seconds,
                utterances,
            } => self.done(audio_seconds, utterances, actions),
            Event::Error { code, message } => self.fail(code, Some(message), actions),
        }
    }

    /// The clock reached [`Self::deadline`].
    pub fn tick(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if !matches!(self.phase, Phase::Fresh | Phase::Listening) {
            return;
        }
        if self.end().is_some_and(|end| now >= end) {
            self.end_with(Ending::Error(ErrorCode::SessionTooLong), actions);
        } else if now >= self.heard + self.clocks.idle {
            self.end_with(Ending::Error(ErrorCode::IdleTimeout), actions);
        } else if !self.noticed && self.end().is_some_and(|end| now + self.notice() >= end) {
            self.noticed = true;
            let message = format!(
                "this session ends in {} s: the longest duration is near",
                self.notice().as_secs()
            );
            warn(WarningCode::SessionEnding, message, actions);
        }
    }

    /// The server is stopping: last words, then Close 1012.
    pub fn drain(&mut self, actions: &mut Vec<Action>) {
        match self.phase {
            Phase::Fresh | Phase::Listening => {
                self.end_with(Ending::Done(ErrorCode::Draining.close_code()), actions);
            }
            Phase::Ending(Ending::Done(_)) => {
                self.phase = Phase::Ending(Ending::Done(ErrorCode::Draining.close_code()));
            }
            Phase::Ending(Ending::Error(_)) | Phase::Closed => {}
        }
    }

    /// Ends the session at once, without last words.
    pub fn fail(&mut self, code: ErrorCode, message: Option<String>, actions: &mut Vec<Action>) {
        if self.phase == Phase::Closed {
            return;
        }
        self.phase = Phase::Closed;
        actions.push(Action::Send(ServerMessage::Error {
            code: code.as_str(),
            message: message.unwrap_or_else(|| code.text().into()),
            retryable: code.retryable(),
        }));
        actions.push(Action::Close(code.close_code(), code.as_str()));
    }

    fn control(&mut self, text: &str, now: Instant, actions: &mut Vec<Action>) {
        match serde_json::from_str::<ClientMessage>(text) {
            Ok(ClientMessage::Start(start)) => {
                self.heard = now;
                self.start(&start, actions);
            }
            Ok(ClientMessage::Configure(options)) => self.configure(&options, actions),
            Ok(ClientMessage::Flush { id: Some(id) }) if id.len() > limits::FLUSH_ID_BYTES => {
                let message = format!(
                    "the `id` of a flush has {} bytes; at most {} are kept",
                    id.len(),
                    limits::FLUSH_ID_BYTES
                );
                self.fail(ErrorCode::InvalidField, Some(message), actions);
            }
            Ok(ClientMessage::Flush { id }) => actions.push(Action::Input(Input::Flush { id })),
            Ok(ClientMessage::Keepalive) => self.heard = now,
            Ok(ClientMessage::Stop) => self.end_with(Ending::Done(1000), actions),
            Err(error) => self.misunderstood(text, &error, actions),
        }
    }

    fn start(&mut self, start: &Start, actions: &mut Vec<Action>) {
        if self.phase != Phase::Fresh || self.started {
            let message = "`start` has no effect after audio or another `start`; use `configure`";
            return warn(WarningCode::LateStart, message, actions);
        }
        match self.parameters.start(start, &self.models) {
            Ok(()) => {
                self.started = true;
                actions.push(Action::Reopen(Box::new(self.parameters.clone())));
            }
            Err(Refused { code, message }) => self.fail(code, Some(message), actions),
        }
    }

    fn configure(&mut self, options: &Options, actions: &mut Vec<Action>) {
        let before = self.parameters.clone();
        match self.parameters.configure(options) {
            Ok(()) if self.parameters != before => {
                actions.push(Action::Configure(Box::new(self.parameters.clone())));
            }
            Ok(()) => {}
            Err(Refused { code, message }) => self.fail(code, Some(message), actions),
        }
    }

    fn misunderstood(&mut self, text: &str, error: &serde_json::Error, actions: &mut Vec<Action>) {
        self.bad_messages += 1;
        if self.bad_messages > limits::BAD_MESSAGES {
            return self.fail(ErrorCode::TooManyBadMessages, None, actions);
        }
        let value = serde_json::from_str::<serde_json::Value>(text).ok();
        match value
            .as_ref()
            .and_then(|value| value.get("type"))
            .and_then(|kind| kind.as_str())
        {
            Some(kind) if !ClientMessage::TYPES.contains(&kind) => {
                let kind: String = kind.chars().take(40).collect();
                let message = format!(
                    "unknown type `{kind}`; known are {}",
                    ClientMessage::TYPES.join(", ")
                );
                warn(WarningCode::UnknownType, message, actions);
            }
            // serde's message names places and types; it may quote a value, which goes to its own author only.
            _ => warn(
                WarningCode::BadMessage,
                format!("not understood: {error}"),
                actions,
            ),
        }
    }

    fn end_with(&mut self, ending: Ending, actions: &mut Vec<Action>) {
        self.phase = Phase::Ending(ending);
        actions.push(Action::Input(Input::Stop));
    }

    fn done(&mut self, audio_seconds: f64, utterances: u64, actions: &mut Vec<Action>) {
        let close = match self.phase {
            Phase::Ending(Ending::Error(code)) => return self.fail(code, None, actions),
            Phase::Ending(Ending::Done(close)) => close,
            // The engine ends streams by itself only when it is drained.
            _ => ErrorCode::Draining.close_code(),
        };
        self.phase = Phase::Closed;
        actions.push(Action::Send(ServerMessage::Done {
            audio_seconds: crate::wire::native::seconds(audio_seconds),
            utterances,
            ignored_messages: self.ignored_messages,
        }));
        let reason = if close == 1000 {
            ""
        } else {
            ErrorCode::Draining.as_str()
        };
        actions.push(Action::Close(close, reason));
    }

    fn end(&self) -> Option<Instant> {
        (!self.clocks.session.is_zero()).then(|| self.begun + self.clocks.session)
    }

    fn notice(&self) -> Duration {
        limits::SESSION_NOTICE.min(self.clocks.session / 2)
    }
}

fn warn(code: WarningCode, message: impl Into<String>, actions: &mut Vec<Action>) {
    actions.push(Action::Send(ServerMessage::Warning {
        code: code.as_str(),
        message: message.into(),
    }));
}
