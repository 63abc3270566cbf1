//! The routes without a socket, over a real engine with the built-in model.

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::router;
use crate::app::App;
use crate::auth::{Access, Secret};
use waxwing_model::device::Device;

use crate::catalog;
use crate::engine::{Engine, EngineOptions};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::session::parameters::ModelNames;

/// One engine for all tests: the warm-up is the slow part.
fn engine() -> Arc<Engine> {
    static ENGINE: OnceLock<Arc<Engine>> = OnceLock::new();
    let start = || {
        let options = EngineOptions {
            workers: 1,
            slots: Some(2),
            ..EngineOptions::default()
        };
        Engine::start(
            catalog::steppable(&catalog::load(&[], &Device::Cpu).unwrap()),
            options,
        )
        .unwrap()
    };
    Arc::clone(ENGINE.get_or_init(start))
}

fn app(keys: &[&str]) -> Arc<App> {
    let keys: Vec<Secret> = keys.iter().map(|key| Secret::new((*key).into())).collect();
    Arc::new(App {
        engine: engine(),
        models: ModelNames(vec!["en-emformer".into()]),
        latencies: Vec::new(),
        languages: vec!["en".into()],
        decoding: crate::wire::native::Decoding::default(),
        access: Access::new(
            "127.0.0.1".parse().unwrap(),
            &keys,
            vec![],
            vec!["https://friend.example".into()],
        ),
        limits: Limits {
            body_bytes: 64 * 1024,
            ..Limits::default()
        },
        metrics: Metrics::install().unwrap(),
        uploads: Arc::new(Semaphore::new(2)),
        draining: CancellationToken::new(),
        tasks: TaskTracker::new(),
    })
}

async fn ask(router: Router, request: Request<Body>) -> (StatusCode, Response<()>, Vec<u8>) {
    let response = router.oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes().to_vec();
    (parts.status, Response::from_parts(parts, ()), body)
}

fn get(path: &str) -> axum::http::request::Builder {
    Request::get(path).header("host", "localhost:8080")
}

/// A form; a part with a file name is a file.
fn form(parts: &[(&str, Option<&str>, &[u8])]) -> Request<Body> {
    let mut body = Vec::new();
    for (name, file, content) in parts {
        let file = file
            .map(|file| format!("; filename=\"{file}\""))
            .unwrap_or_default();
        body.extend(
            format!("--X\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n").as_bytes(),
        );
        body.extend(*content);
        body.extend(b"\r\n");
    }
    body.extend(b"--X--\r\n");
    Request::post("/v1/audio/transcriptions")
        .header("host", "localhost:8080")
        .header("content-type", "multipart/form-data; boundary=X")
        .body(Body::from(body))
        .unwrap()
}

/// One second of silence, 16 kHz mono s16.
fn wav() -> Vec<u8> {
    let data = 32_000_u32;
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((36 + data).to_le_bytes());
    bytes.extend(b"WAVEfmt ");
    bytes.extend(16_u32.to_le_bytes());
    for half in [1_u16, 1] {
        bytes.extend(half.to_le_bytes());
    }
    for word in [16_000_u32, 32_000] {
        bytes.extend(word.to_le_bytes());
    }
    for half in [2_u16, 16] {
        bytes.extend(half.to_le_bytes());
    }
    bytes.extend(b"data");
    bytes.extend(data.to_le_bytes());
    bytes.resize(44 + data as usize, 0);
    bytes
}

#[tokio::test]
async fn a_file_is_transcribed_and_what_had_no_effect_is_named() {
    let wav = wav();
    let request = form(&[
        ("model", None, b"whisper-1"),
        ("temperature", None, b"0"),
        ("response_format", None, b"verbose_json"),
        ("file", Some("a.wav"), &wav),
    ]);
    let (status, head, body) = ask(router(app(&[])), request).await;
    assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
    assert_eq!(head.headers()["x-waxwing-ignored"], "temperature");
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        (&body["duration"], &body["usage"]["seconds"]),
        (&1.0.into(), &1.0.into())
    );
}

#[tokio::test]
async fn a_truncated_file_is_transcribed_and_says_so() {
    let wav = wav();
    let (status, head, body) = ask(router(app(&[])), form(&[("file", Some("a.wav"), &wav[..16_044])])).await;
    assert_eq!(status, StatusCode::OK);
    assert!(head.headers().contains_key("x-waxwing-warnings"));
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert!(
        body["warnings"][0].as_str().unwrap().contains("truncated"),
        "{body}"
    );
}

#[tokio::test]
async fn a_stream_is_deltas_and_then_the_whole() {
    let wav = wav();
    let (status, head, body) = ask(
        router(app(&[])),
        form(&[("stream", None, b"true"), ("file", Some("a.wav"), &wav)]),
    )
    .await;
    assert_eq!(
        (status, head.headers()["content-type"].to_str().unwrap()),
        (StatusCode::OK, "text/event-stream")
    );
    let text = String::from_utf8(body).unwrap();
    let last = text.lines().rfind(|line| line.starts_with("data: ")).unwrap();
    assert!(
        last.contains("\"transcript.text.done\"") && last.contains("\"seconds\":1.0"),
        "{text}"
    );
}

#[tokio::test]
async fn what_is_wrong_with_a_form_is_said_with_its_field() {
    let (wav, large) = (wav(), vec![0; 70 * 1024]);
    let text = b"these are notes, not audio\n".repeat(40);
    type Part<'a> = (&'a str, Option<&'a str>, &'a [u8]);
    let cases: [(&[Part<'_>], u16, &str, &str); 8] = [
        (&[("model", None, b"whisper-1")], 400, "missing_file", "file"),
        (&[("file", Some("a.wav"), b"")], 400, "empty_file", "file"),
        (&[("file", Some("a.wav"), &text)], 400, "unsupported_file", "file"),
        (&[("file", Some("a.wav"), &wav[..44])], 400, "empty_file", "file"),
        (
            &[("model", None, b"en-emfromer"), ("file", Some("a.wav"), &wav)],
            404,
            "unknown_model",
            "model",
        ),
        (
            &[("response_format", None, b"docx"), ("file", Some("a.wav"), &wav)],
            400,
            "invalid_field",
            "response_format",
        ),
        (
            &[("stream", None, b"perhaps"), ("file", Some("a.wav"), &wav)],
            400,
            "invalid_field",
            "stream",
        ),
        (&[("file", Some("a.wav"), &large)], 413, "body_too_large", "file"),
    ];
    for (parts, status, code, param) in cases {
        let (actual, _, body) = ask(router(app(&[])), form(parts)).await;
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            (
                actual.as_u16(),
                body["error"]["code"].as_str(),
                body["error"]["param"].as_str()
            ),
            (status, Some(code), Some(param)),
            "{body}"
        );
    }
    let request = Request::post("/v1/audio/transcriptions")
        .header("host", "localhost")
        .body(Body::from("no form"))
        .unwrap();
    assert_eq!(ask(router(app(&[])), request).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn paths_methods_and_upgrades() {
    for (path, status) in [
        ("/nothing", 404),
        ("/a/b/c", 404),
        ("/v1/stream", 426),
        ("/health", 200),
        ("/ready", 200),
        ("/", 200),
        ("/style.css", 200),
    ] {
        let (actual, head, _) = ask(router(app(&[])), get(path).body(Body::empty()).unwrap()).await;
        assert_eq!(actual.as_u16(), status, "{path}");
        assert_eq!(head.headers()["x-content-type-options"], "nosniff", "{path}");
        assert!(
            head.headers()["content-security-policy"]
                .to_str()
                .unwrap()
                .starts_with("default-src 'self';"),
            "{path}"
        );
    }
    let delete = Request::delete("/v1/models")
        .header("host", "localhost")
        .body(Body::empty())
        .unwrap();
    assert_eq!(
        ask(router(app(&[])), delete).await.0,
        StatusCode::METHOD_NOT_ALLOWED
    );
}

#[tokio::test]
async fn keys_guard_everything_but_the_page_and_the_probes() {
    for (path, status) in [
        ("/v1/models", 401),
        ("/metrics", 401),
        ("/v1/stream", 401),
        ("/", 200),
        ("/app.js", 200),
        ("/health", 200),
        ("/ready", 200),
    ] {
        let (actual, _, body) = ask(
            router(app(&["swordfish"])),
            get(path).body(Body::empty()).unwrap(),
        )
        .await;
        assert_eq!(actual.as_u16(), status, "{path}");
        assert!(!String::from_utf8_lossy(&body).contains("swordfish"));
    }
    let request = get("/metrics")
        .header("authorization", "Bearer swordfish")
        .body(Body::empty())
        .unwrap();
    let (status, _, body) = ask(router(app(&["swordfish"])), request).await;
    assert_eq!(status, StatusCode::OK);
    let text = String::from_utf8(body).unwrap();
    assert!(
        text.contains("waxwing_engine_promise_slots_broken_total 0") && !text.contains("swordfish"),
        "{text}"
    );
}

#[tokio::test]
async fn pages_of_other_sites_are_kept_out_and_listed_ones_may_read() {
    for (origin, status) in [
        ("null", 403),
        ("http://evil.example", 403),
        ("http://localhost:8080", 200),
        ("https://friend.example", 200),
    ] {
        let request = get("/v1/models")
            .header("origin", origin)
            .body(Body::empty())
            .unwrap();
        let (actual, head, _) = ask(router(app(&[])), request).await;
        assert_eq!(actual.as_u16(), status, "{origin}");
        assert_eq!(
            head.headers().contains_key("access-control-allow-origin"),
            origin == "https://friend.example"
        );
    }
    let rebound = Request::get("/")
        .header("host", "evil.example")
        .body(Body::empty())
        .unwrap();
    assert_eq!(ask(router(app(&[])), rebound).await.0, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_stopping_server_refuses_and_says_when_to_return() {
    let app = app(&[]);
    app.draining.cancel();
    let (status, head, body) = ask(
        router(Arc::clone(&app)),
        get("/ready").body(Body::empty()).unwrap(),
    )
    .await;
    assert_eq!(
        (status, head.headers()["retry-after"].to_str().unwrap()),
        (StatusCode::SERVICE_UNAVAILABLE, "5")
    );
    assert!(String::from_utf8_lossy(&body).contains("draining"));
    let wav = wav();
    let (status, _, body) = ask(router(app), form(&[("file", Some("a.wav"), &wav)])).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(String::from_utf8_lossy(&body).contains("\"retry_after_ms\":5000"));
}
