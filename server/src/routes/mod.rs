//! Every path of the server, behind one guard.

mod error;
mod guard;
mod page;
mod status;
#[cfg(test)]
mod tests;
pub mod transcriptions;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};

pub use self::error::ApiError;
pub use self::status::Readiness;
use crate::app::App;
use crate::protocol::native;
use crate::wire::code::ErrorCode;

/// The routes of a server.
pub fn router(app: Arc<App>) -> Router {
    let transcriptions = post(transcriptions::create).layer(DefaultBodyLimit::max(app.limits.body_bytes));
    Router::new()
        .route("/", get(page::index))
        .route("/{name}", get(page::asset))
        .route("/health", get(status::health))
        .route("/ready", get(status::ready))
        .route("/metrics", get(status::metrics))
        .route("/v1/models", get(status::models))
        .route("/v1/stream", get(native::open))
        .route("/v1/audio/transcriptions", transcriptions)
        .fallback(async || ApiError::new(ErrorCode::NotFound))
        .method_not_allowed_fallback(async || ApiError::new(ErrorCode::MethodNotAllowed))
        .layer(from_fn_with_state(Arc::clone(&app), guard::guard))
        .with_state(app)
}
