//! Bodies of OpenAI's transcription endpoint as its clients expect them: errors, models, server-sent events.

use serde::Serialize;

use super::code::ErrorCode;

/// An error body: `{"error": {…}}`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ErrorBody {
    /// The one field.
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ErrorDetail {
    /// For a person.
    pub message: String,
    /// OpenAI's coarse class of the error.
    pub r#type: &'static str,
    /// The form field at fault.
    pub param: Option<&'static str>,
    /// From the closed list.
    pub code: &'static str,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// When to try again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl ErrorBody {
    /// The body for a code.
    pub fn new(code: ErrorCode, message: String, param: Option<&'static str>) -> Self {
        let kind = match code.status() {
            401 => "authentication_error",
            403 => "permission_error",
            429 | 500.. => "server_error",
            _ => "invalid_request_error",
        };
        Self {
            error: ErrorDetail {
                message,
                r#type: kind,
                param,
                code: code.as_str(),
                retryable: code.retryable(),
                retry_after_ms: None,
            },
        }
    }
}

/// The body of `GET /v1/models`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelList {
    /// Always `list`.
    pub object: &'static str,
    /// The loaded models, the default first.
    pub data: Vec<ModelEntry>,
}

/// One loaded model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelEntry {
    /// Its id.
    pub id: String,
    /// Always `model`.
    pub object: &'static str,
    /// Seconds since 1970; models carry no date, so 0.
    pub created: u64,
    /// Who serves it.
    pub owned_by: &'static str,
    /// Whether it can be spoken to (`GET /v1/stream`); every model takes recordings.
    pub streaming: bool,
    /// Longest recording that a model which cannot stream takes, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_file_seconds: Option<u64>,
}

/// How much was heard.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Usage {
    /// Always `duration`.
    pub r#type: &'static str,
    /// Of audio.
    pub seconds: f64,
}

impl Usage {
    /// Usage by duration.
    pub fn seconds(seconds: f64) -> Self {
        Self {
            r#type: "duration",
            seconds: super::native::seconds(seconds),
        }
    }
}

/// An event of `stream=true`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type")]
pub enum StreamEvent {
    /// More text; the deltas joined are the transcript.
    #[serde(rename = "transcript.text.delta")]
    Delta {
        /// What to append.
        delta: String,
    },
    /// The whole transcript; the last event.
    #[serde(rename = "transcript.text.done")]
    Done {
        /// The transcript.
        text: String,
        /// How much was heard.
        usage: Usage,
        /// What was wrong with the file, if anything.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        warnings: Vec<String>,
    },
    /// The stream failed after it began; the last event.
    #[serde(rename = "error")]
    Error {
        /// As in an error body.
        error: ErrorDetail,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_have_the_shapes_that_clients_parse() {
        let error = ErrorBody::new(ErrorCode::UnknownModel, "unknown model `x`".into(), Some("model"));
        insta::assert_snapshot!(serde_json::to_string(&error).unwrap(),
            @r#"{"error":{"message":"unknown model `x`","type":"invalid_request_error","param":"model","code":"unknown_model","retryable":false}}"#);
        let done = StreamEvent::Done {
            text: "a b".into(),
            usage: Usage::seconds(1.5),
            warnings: vec![],
        };
        insta::assert_snapshot!(serde_json::to_string(&done).unwrap(),
            @r#"{"type":"transcript.text.done","text":"a b","usage":{"type":"duration","seconds":1.5}}"#);
    }
}
