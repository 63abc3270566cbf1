//! Every code of the closed lists is produced by a real request over a real socket, and means what its table says.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app::App;
use crate::auth::{Access, Secret};
use crate::engine::tests::{Fake, Fault, options, soon, speech, start_both};
use crate::engine::{Engine, EngineOptions};
use crate::limits::{self, Limits};
use crate::metrics::Metrics;
use crate::session::parameters::ModelNames;
use crate::wire::code::{ErrorCode, WarningCode};
use crate::{routes, server};

/// A server over the fake model; it lives as long as this value.
struct Served {
    model: Arc<Fake>,
    engine: Arc<Engine>,
    address: SocketAddr,
    draining: CancellationToken,
    closing: CancellationToken,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

impl Served {
    fn new() -> Self {
        Self::with(
            EngineOptions {
                slots: Some(4),
                ..options(1)
            },
            Limits::default(),
            &[],
        )
    }

    fn limited(limits: Limits) -> Self {
        Self::with(options(1), limits, &[])
    }

    fn with(options: EngineOptions, limits: Limits, keys: &[&str]) -> Self {
        let model = Fake::new();
        let engine = start_both(&model, &Fake::hearing_whole("recorder"), options);
        let keys: Vec<Secret> = keys.iter().map(|key| Secret::new((*key).into())).collect();
        let (draining, closing) = (CancellationToken::new(), CancellationToken::new());
        let app = App {
            engine: Arc::clone(&engine),
            models: ModelNames(vec!["fake".into(), "recorder".into()]),
            latencies: Vec::new(),
            languages: vec!["en".into()],
            decoding: crate::wire::native::Decoding::default(),
            access: Access::new("127.0.0.1".parse().unwrap(), &keys, vec![], vec![]),
            limits,
            metrics: Metrics::install().unwrap(),
            uploads: Arc::new(Semaphore::new(2)),
            draining: draining.clone(),
            tasks: TaskTracker::new(),
        };
        let listener = server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(server::run(
            listener,
            routes::router(Arc::new(app)),
            64,
            closing.clone(),
        ));
        Self {
            model,
            engine,
            address,
            draining,
            closing,
        }
    }

    /// The code of a refused request, whose status and body are checked against the table.
    async fn refused(&self, head: &str, body: &[u8]) -> &'static str {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        let host = if head.contains("\r\nHost:") {
            ""
        } else {
            "Host: localhost\r\n"
        };
        let length = body.len();
        let request = format!("{head}\r\n{host}Connection: close\r\nContent-Length: {length}\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        socket.write_all(body).await.unwrap();
        let mut answer = Vec::new();
        soon(socket.read_to_end(&mut answer)).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let status: u16 = answer.split(' ').nth(1).unwrap().parse().unwrap();
        let json = &answer[answer.find('{').expect(&answer)..=answer.rfind('}').unwrap()];
        let error = &serde_json::from_str::<Value>(json).unwrap()["error"];
        let code = known(&error["code"]);
        assert_eq!(
            (status, &error["retryable"]),
            (code.status(), &code.retryable().into()),
            "{answer}"
        );
        code.as_str()
    }

    /// As [`refused`](Self::refused), for the request of a WebSocket.
    async fn refused_upgrade(&self, query: &str) -> &'static str {
        let head = format!(
            "GET /v1/stream{query} HTTP/1.1\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
        );
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        let request = format!("{head}\r\nHost: localhost\r\nConnection: Upgrade\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // The connection stays open behind a refusal.
        while !answer.ends_with(b"}}") {
            let mut part = [0; 1024];
            let length = soon(socket.read(&mut part)).await.unwrap();
            assert!(length > 0, "{}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&part[..length]);
        }
        let answer = String::from_utf8(answer).unwrap();
        let error = &serde_json::from_str::<Value>(&answer[answer.find('{').unwrap()..]).unwrap()["error"];
        let code = known(&error["code"]);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {} ", code.status())),
            "{answer}"
        );
        code.as_str()
    }

    /// The code of a failed upload.
    async fn refused_form(&self, parts: &[(&str, &[u8])]) -> &'static str {
        let mut body = Vec::new();
        for (name, content) in parts {
            let file = if *name == "file" { "; filename=\"a\"" } else { "" };
            body.extend(
                format!("--X\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n").bytes(),
            );
            body.extend(*content);
            body.extend(b"\r\n");
        }
        body.extend(b"--X--\r\n");
        let head = "POST /v1/audio/transcriptions HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=X";
        self.refused(head, &body).await
    }

    async fn socket(&self) -> Socket {
        let stream = TcpStream::connect(self.address).await.unwrap();
        Socket::over(stream, self.address).await
    }
}

fn known(code: &Value) -> ErrorCode {
    let found = ErrorCode::ALL.iter().find(|known| code == known.as_str());
    *found.unwrap_or_else(|| panic!("{code} is in no table"))
}

struct Socket(WebSocketStream<TcpStream>);

impl Socket {
    async fn over(stream: TcpStream, address: SocketAddr) -> Self {
        let url = format!("ws://localhost:{}/v1/stream", address.port());
        Self(tokio_tungstenite::client_async(url, stream).await.unwrap().0)
    }

    async fn text(&mut self, message: Value) {
        // The server may have closed already; then the events say why.
        let _ = self.0.send(Message::text(message.to_string())).await;
    }

    async fn audio(&mut self, bytes: Vec<u8>) {
        let _ = self.0.send(Message::binary(bytes)).await;
    }

    /// All events to the Close, and its code.
    async fn rest(mut self) -> (Vec<Value>, u16) {
        let mut events = Vec::new();
        loop {
            match soon(self.0.next()).await.unwrap().unwrap() {
                Message::Text(text) => events.push(serde_json::from_str(&text).unwrap()),
                Message::Close(Some(frame)) => return (events, frame.code.into()),
                _ => {}
            }
        }
    }

    /// The code of the error that ends the session, checked against the table.
    async fn failed(self) -> &'static str {
        let (events, close) = self.rest().await;
        let error = events.last().unwrap();
        assert_eq!(error["type"], "error", "{error}");
        let code = known(&error["code"]);
        assert_eq!(
            (close, &error["retryable"]),
            (code.close_code(), &code.retryable().into())
        );
        code.as_str()
    }
}

/// One second of noise, 16 kHz mono s16.
fn wav() -> Vec<u8> {
    let data = speech(1, 1.0);
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((36 + data.len() as u32).to_le_bytes());
    bytes.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    bytes.extend(16_000_u32.to_le_bytes());
    bytes.extend(32_000_u32.to_le_bytes());
    bytes.extend(b"\x02\0\x10\0data");
    bytes.extend((data.len() as u32).to_le_bytes());
    bytes.extend(data);
    bytes
}

/// What is refused before anything is heard.
async fn requests(seen: &mut HashSet<&'static str>) {
    let served = Served::new();
    for (query, code) in [
        ("?encoding=opus", "unknown_encoding"),
        ("?model=nobody", "unknown_model"),
        ("?model=recorder", "cannot_stream"),
        ("?sample_rate=1", "unsupported_rate"),
        ("?channels=9", "unsupported_channels"),
        ("?partials=perhaps", "invalid_field"),
    ] {
        assert_eq!(served.refused_upgrade(query).await, code);
        seen.insert(code);
    }
    for (head, code) in [
        ("GET /nothing HTTP/1.1", "not_found"),
        ("DELETE /v1/models HTTP/1.1", "method_not_allowed"),
        ("GET /v1/stream HTTP/1.1", "upgrade_required"),
        ("GET / HTTP/1.1\r\nHost: evil.example", "forbidden_host"),
        (
            "GET / HTTP/1.1\r\nOrigin: http://evil.example",
            "forbidden_origin",
        ),
        ("POST /v1/audio/transcriptions HTTP/1.1", "bad_request"),
    ] {
        assert_eq!(served.refused(head, b"").await, code);
        seen.insert(code);
    }
    let guarded = Served::with(options(1), Limits::default(), &["swordfish"]);
    seen.insert(guarded.refused("GET /v1/models HTTP/1.1", b"").await);
    assert!(seen.contains("unauthorized"));

    let limits = Limits {
        body_bytes: 64 * 1024,
        ..Limits::default()
    };
    let small = Served::limited(limits);
    for (parts, code) in [
        (vec![("model", b"fake".as_slice())], "missing_file"),
        (vec![("file", b"".as_slice())], "empty_file"),
        (vec![("file", b"these are notes".as_slice())], "unsupported_file"),
        (vec![("file", [0; 70 * 1024].as_slice())], "body_too_large"),
    ] {
        assert_eq!(small.refused_form(&parts).await, code);
        seen.insert(code);
    }

    let brief = Served::with(
        EngineOptions {
            whole_limit: Duration::from_millis(900),
            ..options(1)
        },
        Limits::default(),
        &[],
    );
    let long = [("model", b"recorder".as_slice()), ("file", &wav())];
    assert_eq!(brief.refused_form(&long).await, "too_long_for_model");
    seen.insert("too_long_for_model");

    let full = Served::with(
        EngineOptions {
            slots: Some(1),
            ..options(1)
        },
        Limits::default(),
        &[],
    );
    let first = full.socket().await;
    assert_eq!(full.refused_upgrade("").await, "server_full");
    seen.insert("server_full");
    drop(first);
    served.draining.cancel();
    assert_eq!(served.refused_upgrade("").await, "draining");
    seen.insert("draining");
}

/// What ends a session that has begun.
async fn sessions(seen: &mut HashSet<&'static str>) {
    let served = Served::new();
    for (start, code) in [
        (json!({"type": "start", "encoding": "opus"}), "unknown_encoding"),
        (json!({"type": "start", "model": "nobody"}), "unknown_model"),
        (json!({"type": "start", "model": "recorder"}), "cannot_stream"),
        (json!({"type": "start", "sample_rate": 1}), "unsupported_rate"),
        (json!({"type": "start", "channels": 9}), "unsupported_channels"),
        (json!({"type": "flush", "id": "x".repeat(300)}), "invalid_field"),
    ] {
        let mut socket = served.socket().await;
        socket.text(start).await;
        assert_eq!(socket.failed().await, code);
    }
    let mut talker = served.socket().await;
    for _ in 0..=limits::BAD_MESSAGES {
        talker.text(json!("what?")).await;
    }
    let mut shouter = served.socket().await;
    shouter.audio(vec![0; limits::MESSAGE_BYTES + 1]).await;
    let soon_over = Duration::from_millis(50);
    let idle = Served::limited(Limits {
        idle: soon_over,
        ..Limits::default()
    });
    let short = Served::limited(Limits {
        session: soon_over,
        ..Limits::default()
    });
    for (socket, code) in [
        (talker, "too_many_bad_messages"),
        (shouter, "message_too_large"),
        (idle.socket().await, "idle_timeout"),
        (short.socket().await, "session_too_long"),
        (
            deaf(&Served::limited(Limits {
                slow_reader: 2 * soon_over,
                ..Limits::default()
            }))
            .await,
            "slow_reader",
        ),
    ] {
        assert_eq!(socket.failed().await, code);
        seen.insert(code);
    }
}

/// A client with a small window that asks and asks and never reads, until the server gives it up.
async fn deaf(served: &Served) -> Socket {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let stream = socket.connect(served.address).await.unwrap();
    let Socket(socket) = Socket::over(stream, served.address).await;
    let (mut sink, source) = socket.split();
    let slots = served.engine.status().slots;
    let asking = async {
        let flush = json!({"type": "flush", "id": "x".repeat(limits::FLUSH_ID_BYTES)}).to_string();
        while sink.send(Message::text(flush.clone())).await.is_ok() {}
    };
    let given_up = async {
        while served.engine.status().free < slots {
            tokio::task::yield_now().await;
        }
    };
    soon(async {
        tokio::select! {
            () = asking => {}
            () = given_up => {}
        }
    })
    .await;
    Socket(sink.reunite(source).unwrap())
}

/// What goes wrong in the engine, told to a session and to an upload.
async fn faults(seen: &mut HashSet<&'static str>) {
    for (fault, code) in [
        (Fault::Error, "engine_failed"),
        (Fault::NonFinite(vec![0]), "non_finite"),
    ] {
        let again = match &fault {
            Fault::NonFinite(rows) => Fault::NonFinite(rows.clone()),
            _ => Fault::Panic,
        };
        let served = Served::new();
        served.model.then(fault);
        let mut socket = served.socket().await;
        socket.audio(speech(1, 1.0)).await;
        assert_eq!(socket.failed().await, code);
        // An engine of its own: the other one may still be busy with its rebuilding.
        let served = Served::new();
        served.model.then(again);
        assert_eq!(served.refused_form(&[("file", &wav())]).await, code);
        seen.insert(code);
    }
    let served = Served::new();
    let gate = served.model.gate();
    let mut socket = served.socket().await;
    socket.audio(speech(1, 1.0)).await;
    let begun = tokio::task::spawn_blocking(move || {
        gate.begun.recv().unwrap();
        gate.go_on
    });
    let go_on = soon(begun).await.unwrap();
    // The next look at the geometry is the worker's, behind the step.
    served.model.panic_outside.store(true, Relaxed);
    go_on.send(()).unwrap();
    assert_eq!(socket.failed().await, "internal");
    seen.insert("internal");
}

#[tokio::test]
async fn every_error_code_is_reached_and_means_what_its_table_says() {
    let mut seen = HashSet::new();
    requests(&mut seen).await;
    sessions(&mut seen).await;
    faults(&mut seen).await;
    let listed: HashSet<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(seen, listed);
}

#[tokio::test]
async fn every_warning_is_reached_and_the_session_goes_on() {
    let served = Served::limited(Limits {
        session: Duration::from_secs(3600),
        ..Limits::default()
    });
    let mut socket = served.socket().await;
    for message in [
        json!({"type": "start", "encoding": "f32le"}),
        json!({"type": "start"}),
        json!({"type": "sing"}),
        json!(["start"]),
    ] {
        socket.text(message).await;
    }
    socket.audio(f32::NAN.to_le_bytes().repeat(4_000)).await;
    socket.audio(vec![0; 3]).await;
    socket.text(json!({"type": "configure", "alternatives": 3})).await;
    socket.text(json!({"type": "stop"})).await;
    let (mut events, close) = socket.rest().await;
    assert_eq!(close, 1000, "{events:?}");
    let short = Served::limited(Limits {
        session: Duration::from_millis(100),
        ..Limits::default()
    });
    events.extend(short.socket().await.rest().await.0);
    let seen: HashSet<_> = events
        .iter()
        .filter(|event| event["type"] == "warning")
        .map(|event| event["code"].as_str().unwrap())
        .collect();
    let listed: HashSet<_> = WarningCode::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(seen, listed);
}

#[test]
fn the_documentation_lists_the_same_codes() {
    let text = include_str!("../../docs/protocol.md");
    for code in ErrorCode::ALL {
        let retry = if code.retryable() { "yes" } else { "no" };
        let row = format!(
            "| `{code}` | {} | {} | {retry} | ",
            code.status(),
            code.close_code()
        );
        assert!(text.contains(&row), "docs/protocol.md has no row {row}");
    }
    for code in WarningCode::ALL {
        let row = format!("| `{}` | ", code.as_str());
        assert!(text.contains(&row), "docs/protocol.md has no row {row}");
    }
}
