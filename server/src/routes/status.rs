//! What operators and clients ask about the server: `/health`, `/ready`, `/v1/models`, `/metrics`.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::app::App;
use crate::engine::{BUCKETS_MS, StepModel};
use crate::wire::openai::{ModelEntry, ModelList};

/// The body of `GET /ready`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// `ready`, `full`, `draining` or `failed`.
    pub state: &'static str,
    /// Sessions that the server holds at the same time.
    pub slots: usize,
    /// How many more it takes now.
    pub free: usize,
    /// When to try again; 0 when there is no need to wait.
    pub retry_after_ms: u64,
}

/// `GET /health`: the process answers.
pub(super) async fn health() -> Json<serde_json::Value> {
    Json(serde_json::json!({"status": "ok"}))
}

/// `GET /ready`: 200 when the engine steps and the server is not stopping. A full server is ready: it is healthy, and
/// the body says that there is no slot.
pub(super) async fn ready(State(app): State<Arc<App>>) -> Response {
    let readiness = app.readiness();
    let status = match readiness.state {
        "ready" | "full" => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut response = (status, Json(&readiness)).into_response();
    if readiness.retry_after_ms > 0 {
        let seconds = readiness.retry_after_ms.div_ceil(1000);
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// `GET /v1/models`, the default first.
pub(super) async fn models(State(app): State<Arc<App>>) -> Json<ModelList> {
    let entry = |model: &Arc<dyn StepModel>| {
        let streaming = model.cannot_stream().is_none();
        ModelEntry {
            id: model.id().into(),
            object: "model",
            created: 0,
            owned_by: "waxwing",
            streaming,
            max_file_seconds: (!streaming).then(|| app.engine.whole_limit().as_secs()),
        }
    };
    Json(ModelList {
        object: "list",
        data: app.engine.models().map(entry).collect(),
    })
}

/// `GET /metrics` in Prometheus' text format.
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let mut text = app.metrics.render();
    write_engine(&mut text, &app);
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        text,
    )
        .into_response()
}

fn write_engine(text: &mut String, app: &App) {
    let (counters, status) = (app.engine.counters(), app.engine.status());
    // Writing to a string cannot fail.
    for (name, value) in counters.values() {
        let _ = writeln!(
            text,
            "# TYPE waxwing_engine_{name}_total counter\nwaxwing_engine_{name}_total {value}"
        );
    }
    for (name, value) in [
        ("slots", status.slots),
        ("slots_free", status.free),
        ("files_open", status.files),
        ("queued_segments", status.queued),
    ] {
        let _ = writeln!(
            text,
            "# TYPE waxwing_engine_{name} gauge\nwaxwing_engine_{name} {value}"
        );
    }
    write_session_bytes(text, app);
    for (name, histogram) in [
        ("step_seconds", &counters.step_time),
        ("judgement_seconds", &counters.judgement_time),
        ("response_seconds", &counters.response_time),
    ] {
        let snapshot = histogram.snapshot();
        let _ = writeln!(text, "# TYPE waxwing_engine_{name} histogram");
        let mut seen = 0;
        let bounds = BUCKETS_MS
            .iter()
            .map(|ms| (*ms as f64 / 1000.0).to_string())
            .chain(["+Inf".to_string()]);
        for (bound, count) in bounds.zip(&snapshot.buckets) {
            seen += count;
            let _ = writeln!(text, "waxwing_engine_{name}_bucket{{le=\"{bound}\"}} {seen}");
        }
        let _ = writeln!(text, "waxwing_engine_{name}_sum {}", snapshot.sum.as_secs_f64());
        let _ = writeln!(text, "waxwing_engine_{name}_count {seen}");
    }
}

/// Rates of the published bounds: what speech models hear, and what sound cards record.
const PUBLISHED_RATES_HZ: [u32; 3] = [16_000, 44_100, 48_000];

/// Promise I8: the bound of each model, and the most that any session was seen to hold; and what a session takes of a device.
fn write_session_bytes(text: &mut String, app: &App) {
    let name = "waxwing_engine_session_bytes_bound";
    let streaming = || {
        app.engine
            .models()
            .filter(|model| model.cannot_stream().is_none())
    };
    // Writing to a string cannot fail.
    let _ = writeln!(text, "# TYPE {name} gauge");
    for model in streaming() {
        let id = model.id();
        for rate in PUBLISHED_RATES_HZ {
            let Ok(bound) = app.engine.session_bytes(model.as_ref(), rate) else {
                continue;
            };
            for (state, bytes) in [("idle", bound.idle), ("active", bound.most)] {
                let _ = writeln!(
                    text,
                    "{name}{{model=\"{id}\",sample_rate=\"{rate}\",state=\"{state}\"}} {bytes}"
                );
            }
        }
    }
    let seen = app.engine.session_bytes_seen();
    let _ = writeln!(
        text,
        "# TYPE waxwing_engine_session_bytes_seen gauge\nwaxwing_engine_session_bytes_seen {seen}"
    );
    let name = "waxwing_engine_session_device_bytes";
    let _ = writeln!(text, "# TYPE {name} gauge");
    for model in streaming() {
        let bytes = model.new_state().device_bytes();
        let _ = writeln!(text, "{name}{{model=\"{}\"}} {bytes}", model.id());
    }
}
