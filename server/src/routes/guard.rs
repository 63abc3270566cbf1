//! What every request passes: the rules of access, and the headers that every answer carries.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::ApiError;
use crate::app::App;

/// Everything comes from this server and runs nowhere else; the page may play what it recorded.
const CONTENT_SECURITY_POLICY: &str = "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data: blob:; \
    media-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Refuses what may not come in, answers preflights of listed origins, and sets the headers of safety.
pub(super) async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let listed = request
        .headers()
        .get(header::ORIGIN)
        .filter(|origin| origin.to_str().is_ok_and(|origin| app.access.is_listed(origin)))
        .cloned();
    let mut response = match app.access.check_page(request.headers()) {
        Err(code) => ApiError::new(code).into_response(),
        Ok(()) if listed.is_some() && request.method() == Method::OPTIONS => {
            StatusCode::NO_CONTENT.into_response()
        }
        Ok(()) => match check_key(&app, &request) {
            Err(error) => error.into_response(),
            Ok(()) => next.run(request).await,
        },
    };
    set_safety(response.headers_mut());
    if let Some(origin) = listed {
        allow_origin(response.headers_mut(), origin);
    }
    response
}

/// The page must load before it can show a key, and probes carry none.
fn check_key(app: &App, request: &Request) -> Result<(), ApiError> {
    let path = request.uri().path();
    if path.starts_with("/v1/") || path == "/metrics" {
        app.access.check_key(request.headers()).map_err(ApiError::new)
    } else {
        Ok(())
    }
}

fn set_safety(headers: &mut HeaderMap) {
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(
        "cross-origin-opener-policy",
        HeaderValue::from_static("same-origin"),
    );
    headers.insert(
        "permissions-policy",
        HeaderValue::from_static("microphone=(self), camera=(), geolocation=()"),
    );
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
}

fn allow_origin(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::VARY, HeaderValue::from_static("origin"));
    for (name, value) in [
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "authorization, content-type",
        ),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST"),
        (
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            "retry-after, x-waxwing-ignored, x-waxwing-warnings",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}
