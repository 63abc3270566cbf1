//! Refusals over HTTP: one shape for all routes, OpenAI's.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::session::parameters::Refused;
use crate::wire::code::ErrorCode;
use crate::wire::openai::ErrorBody;

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    code: ErrorCode,
    message: String,
    param: Option<&'static str>,
    retry_after: Option<Duration>,
}

impl ApiError {
    /// A refusal with the table's own text.
    pub fn new(code: ErrorCode) -> Self {
        Self::with_message(code, code.text())
    }

    /// A refusal that says more than the table.
    pub fn with_message(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            param: None,
            retry_after: None,
        }
    }

    /// Names the field at fault.
    pub fn param(mut self, param: &'static str) -> Self {
        self.param = Some(param);
        self
    }

    /// Says when to try again.
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Why.
    pub fn code(&self) -> ErrorCode {
        self.code
    }

    /// For the caller.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The JSON body.
    pub fn body(&self) -> ErrorBody {
        let mut body = ErrorBody::new(self.code, self.message.clone(), self.param);
        body.error.retry_after_ms = self
            .retry_after
            .map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
        body
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        Self::with_message(refused.code, refused.message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        metrics::counter!("waxwing_refused_requests_total", "code" => self.code.as_str()).increment(1);
        let status = StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        if let Some(after) = self.retry_after {
            // Whole seconds, rounded up: earlier would be refused again.
            headers.insert(
                header::RETRY_AFTER,
                HeaderValue::from(after.as_secs_f64().ceil() as u64),
            );
        }
        match self.code {
            ErrorCode::Unauthorized => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            ErrorCode::UpgradeRequired => {
                headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            }
            _ => {}
        }
        response
    }
}
