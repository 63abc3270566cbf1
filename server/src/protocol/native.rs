//! `GET /v1/stream`: the socket task of a native session. All decisions are [`Session`]'s; here bytes move.
//!
//! One task serves one socket. It stops reading while the stream has enough audio waiting, so that TCP slows the client
//! down, and stops asking for events while the client does not read, so that the engine coalesces partials.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::ready;

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{Sink as _, StreamExt as _};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout, timeout_at};

use crate::app::App;
use crate::auth::SUBPROTOCOL;
use crate::engine::{Input, Stream};
use crate::limits;
use crate::routes::ApiError;
use crate::session::parameters::{Parameters, from_query};
use crate::session::{Action, Clocks, Incoming, Session};
use crate::wire::code::{ErrorCode, WarningCode};
use crate::wire::native::ServerMessage;

/// Messages that may wait for the client before the engine is asked for no more.
const OUTBOX_MESSAGES: usize = 4;
/// Largest message that is still read to its end, so that the client gets its error and Close instead of a reset.
const READABLE_BYTES: usize = 4 * limits::MESSAGE_BYTES;

/// Answers the request: an upgrade, or the reason why not, in JSON.
pub async fn open(
    State(app): State<Arc<App>>,
    query: Query<Vec<(String, String)>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(_) => return ApiError::new(ErrorCode::UpgradeRequired).into_response(),
    };
    match begin(&app, &query) {
        Err(error) => error.into_response(),
        Ok((session, stream, remarks)) => {
            let token = app.tasks.token();
            upgrade
                .protocols([SUBPROTOCOL])
                .read_buffer_size(8192)
                .write_buffer_size(0)
                .max_message_size(READABLE_BYTES)
                .max_frame_size(READABLE_BYTES)
                .on_upgrade(async move |socket| {
                    let _in_progress = token;
                    serve(socket, &app, session, stream, remarks).await;
                })
        }
    }
}

/// Sets the session up from the query and takes a slot before the upgrade; also says what of the query has no effect.
fn begin(app: &App, query: &[(String, String)]) -> Result<(Session, Stream, Vec<String>), ApiError> {
    let start = from_query(query.iter().map(|(name, value)| (name.as_str(), value.as_str())))?;
    let mut parameters = Parameters::new(&app.models, app.decoding);
    parameters.start(&start, &app.models)?;
    let (stream, remarks) = app.open_live(&parameters)?;
    let clocks = Clocks {
        idle: app.limits.idle,
        session: app.limits.session,
    };
    Ok((
        Session::new(app.models.clone(), parameters, clocks, Instant::now().into_std()),
        stream,
        remarks,
    ))
}

/// What waits to be sent, and since when nothing moved.
struct Outbox {
    sink: SplitSink<WebSocket, Message>,
    waiting: VecDeque<Message>,
    flushed: bool,
    moved: Instant,
}

impl Outbox {
    fn push(&mut self, message: Message) {
        if self.flushed {
            self.moved = Instant::now();
        }
        self.flushed = false;
        self.waiting.push_back(message);
    }

    fn send(&mut self, message: &ServerMessage) {
        self.push(Message::Text(message.to_json().into()));
    }

    /// Says what has no effect.
    fn remark(&mut self, remarks: Vec<String>) {
        for message in remarks {
            let code = WarningCode::UnsupportedOption.as_str();
            self.send(&ServerMessage::Warning { code, message });
        }
    }

    fn has_room(&self) -> bool {
        self.waiting.len() < OUTBOX_MESSAGES
    }

    /// Sends all that waits. May be dropped at any point: nothing is lost.
    async fn flush(&mut self) -> Result<(), axum::Error> {
        poll_fn(|cx| {
            while !self.waiting.is_empty() {
                ready!(std::pin::Pin::new(&mut self.sink).poll_ready(cx))?;
                if let Some(message) = self.waiting.pop_front() {
                    std::pin::Pin::new(&mut self.sink).start_send(message)?;
                    self.moved = Instant::now();
                }
            }
            std::pin::Pin::new(&mut self.sink).poll_flush(cx)
        })
        .await?;
        self.flushed = true;
        Ok(())
    }
}

/// Counts a session while it is open, however it ends.
struct OpenSession;

impl OpenSession {
    fn new() -> Self {
        metrics::gauge!("waxwing_sessions_open").increment(1.0);
        Self
    }
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        metrics::gauge!("waxwing_sessions_open").decrement(1.0);
    }
}

async fn serve(socket: WebSocket, app: &App, mut session: Session, stream: Stream, remarks: Vec<String>) {
    let _open = OpenSession::new();
    let id = stream.id().to_string();
    tracing::debug!(session = id, model = session.parameters().model, "session begins");
    let (sink, mut source) = socket.split();
    let mut outbox = Outbox {
        sink,
        waiting: VecDeque::new(),
        flushed: true,
        moved: Instant::now(),
    };
    outbox.send(&ready(app, &stream, session.parameters()));
    outbox.remark(remarks);
    let ended = converse(&mut source, &mut outbox, app, &mut session, stream).await;
    match ended {
        Ended::Closing(code, reason) => {
            close(&mut source, &mut outbox, code, reason, app.limits.slow_reader).await;
        }
        Ended::Left => {}
    }
    let how = match ended {
        Ended::Left => "left",
        Ended::Closing(_, "") => "done",
        Ended::Closing(_, reason) => reason,
    };
    metrics::counter!("waxwing_sessions_total", "end" => how).increment(1);
    tracing::debug!(session = id, end = how, "session ended");
}

fn ready(app: &App, stream: &Stream, parameters: &Parameters) -> ServerMessage {
    ServerMessage::Ready {
        session: stream.id().to_string(),
        model: parameters.model.clone(),
        sample_rate: parameters.sample_rate_hz,
        latency_ms: app.latency(&parameters.model),
    }
}

/// How a conversation ended.
#[derive(Debug, Clone, Copy)]
enum Ended {
    /// We close, for this reason.
    Closing(u16, &'static str),
    /// The client is gone.
    Left,
}

async fn converse(
    source: &mut SplitStream<WebSocket>,
    outbox: &mut Outbox,
    app: &App,
    session: &mut Session,
    stream: Stream,
) -> Ended {
    let mut stream = stream;
    let mut parameters = session.parameters().clone();
    let mut actions = Vec::new();
    let mut reading = true;
    let mut drained = false;
    let mut ping = interval(limits::PING_INTERVAL);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ping.reset();
    loop {
        let deadline = session.deadline().map(Instant::from_std);
        let stuck = outbox.moved + app.limits.slow_reader;
        let listening = reading || session.is_ending();
        tokio::select! {
            flushed = outbox.flush(), if !outbox.flushed => {
                if flushed.is_err() {
                    return Ended::Left;
                }
            }
            () = sleep_until(stuck), if !outbox.flushed => {
                session.fail(ErrorCode::SlowReader, None, &mut actions);
            }
            message = source.next(), if listening => match message {
                Some(Ok(message)) => {
                    if let Some(message) = incoming(message) {
                        session.message(message, now(), &mut actions);
                    }
                }
                Some(Err(error)) if is_too_large(&error) => {
                    session.message(Incoming::TooLarge, now(), &mut actions);
                }
                Some(Err(_)) | None => return Ended::Left,
            },
            () = stream.writable(), if !listening => {
                reading = true;
                session.resumed(now());
            }
            event = stream.next_event(), if outbox.has_room() => match event {
                Some(event) => session.event(event, &mut actions),
                None => session.fail(ErrorCode::EngineFailed, None, &mut actions),
            },
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if listening && deadline.is_some() => {
                session.tick(now(), &mut actions);
            }
            _ = ping.tick() => outbox.push(Message::Ping(bytes::Bytes::new())),
            () = app.draining.cancelled(), if !drained => {
                drained = true;
                session.drain(&mut actions);
            }
        }
        for action in actions.drain(..) {
            match action {
                Action::Send(message) => outbox.send(&message),
                Action::Input(input) => {
                    // A stream that takes nothing more says why by its last event.
                    let _ = stream.send(input);
                    reading = stream.is_writable();
                }
                Action::Configure(parameters) => {
                    let (transcriber, remarks) = app.live_options(&parameters);
                    let _ = stream.send(Input::Configure {
                        partials: parameters.partials,
                        transcriber,
                    });
                    reading = stream.is_writable();
                    outbox.remark(remarks);
                }
                Action::Reopen(wanted) => {
                    let mut remarks = Vec::new();
                    if *wanted != parameters {
                        parameters = *wanted;
                        // The slot is given back first, so that a full server still lets its own sessions start.
                        drop(stream);
                        match app.open_live(&parameters) {
                            Ok((other, heard)) => (stream, remarks) = (other, heard),
                            Err(error) => return refuse(session, outbox, &error),
                        }
                    }
                    outbox.send(&ready(app, &stream, &parameters));
                    outbox.remark(remarks);
                }
                Action::Close(code, reason) => return Ended::Closing(code, reason),
            }
        }
    }
}

/// Ends a session whose second stream was refused.
fn refuse(session: &mut Session, outbox: &mut Outbox, error: &ApiError) -> Ended {
    let mut actions = Vec::new();
    let code = error.code();
    session.fail(code, Some(error.message().into()), &mut actions);
    for action in actions {
        if let Action::Send(message) = action {
            outbox.send(&message);
        }
    }
    Ended::Closing(code.close_code(), code.as_str())
}

/// Sends what is left and Close, then waits for the client's own: a socket that is dropped with unread input is reset,
/// and the reset would overtake the last words.
async fn close(
    source: &mut SplitStream<WebSocket>,
    outbox: &mut Outbox,
    code: u16,
    reason: &'static str,
    slow_reader: std::time::Duration,
) {
    outbox.push(Message::Close(Some(CloseFrame {
        code,
        reason: reason.into(),
    })));
    // A reader that was slow for long enough is not waited for again.
    let patience = if reason == ErrorCode::SlowReader.as_str() {
        limits::CLOSE_TIMEOUT
    } else {
        slow_reader
    };
    if !matches!(timeout(patience, outbox.flush()).await, Ok(Ok(()))) {
        return;
    }
    let end = Instant::now() + limits::CLOSE_TIMEOUT;
    while let Ok(Some(Ok(_))) = timeout_at(end, source.next()).await {}
}

/// What the session has to know of a message; pings and pongs are the library's.
fn incoming(message: Message) -> Option<Incoming> {
    match message {
        Message::Binary(bytes) if bytes.len() > limits::MESSAGE_BYTES => Some(Incoming::TooLarge),
        Message::Text(text) if text.len() > limits::MESSAGE_BYTES => Some(Incoming::TooLarge),
        Message::Binary(bytes) => Some(Incoming::Binary(bytes)),
        Message::Text(text) => Some(Incoming::Text(text.as_str().into())),
        Message::Ping(_) | Message::Pong(_) | Message::Close(_) => None,
    }
}

/// Whether the library refused to read a message for its size.
fn is_too_large(error: &axum::Error) -> bool {
    use tokio_tungstenite::tungstenite::Error;
    std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<Error>())
        .is_some_and(|source| matches!(source, Error::Capacity(_)))
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}
