//! `POST /v1/audio/transcriptions` in OpenAI's shape: a form with a file in, a transcript in one of five formats or a
//! stream of server-sent events out.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::extract::multipart::{Field, Multipart, MultipartError, MultipartRejection};
use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::sse::{Event as SseEvent, Sse};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use waxwing_frontend::pcm::ChannelSelection;

use super::ApiError;
use crate::app::{App, refused};
use crate::files::{FileError, FileRequest, FileTranscription, Progress, Source, Transcript};
use crate::limits;
use crate::session::parameters;
use crate::wire::code::ErrorCode;
use crate::wire::hotwords::{self, HotwordField};
use crate::wire::native::{Decoding, Endpointing};
use crate::wire::openai::{StreamEvent, Usage};
use crate::wire::subtitles;
use crate::wire::transcription::{Granularities, Shown, Transcription, VerboseTranscription};

/// Fields that are read or harmlessly accepted.
const IGNORED: HeaderName = HeaderName::from_static("x-waxwing-ignored");
/// What was odd about the file.
const WARNINGS: HeaderName = HeaderName::from_static("x-waxwing-warnings");
/// How long the rest of a refused body is read: a client that is still sending would otherwise see a reset, no answer.
const DISCARD: std::time::Duration = std::time::Duration::from_secs(5);

/// How the transcript is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Format {
    #[default]
    Json,
    Text,
    Srt,
    Vtt,
    VerboseJson,
}

impl Format {
    const NAMES: &str = "json, text, srt, vtt, verbose_json";

    fn parse(name: &str) -> Option<Self> {
        match name {
            "json" => Some(Self::Json),
            "text" => Some(Self::Text),
            "srt" => Some(Self::Srt),
            "vtt" => Some(Self::Vtt),
            "verbose_json" => Some(Self::VerboseJson),
            _ => None,
        }
    }
}

/// The form, read and checked.
#[derive(Debug, Default)]
struct Form {
    file: Option<Bytes>,
    model: Option<String>,
    format: Format,
    granularities: Option<Granularities>,
    channel: Option<u16>,
    decoding: Decoding,
    hotwords: Vec<HotwordField>,
    formatted: bool,
    stream: bool,
    ignored: Vec<String>,
}

/// How the answer is to be written.
#[derive(Debug)]
struct Answer {
    format: Format,
    granularities: Option<Granularities>,
    formatted: bool,
    language: String,
}

/// Answers the request.
pub async fn create(State(app): State<Arc<App>>, request: Request) -> Response {
    match transcribe(&app, request).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

async fn transcribe(app: &Arc<App>, request: Request) -> Result<Response, ApiError> {
    if app.draining.is_cancelled() {
        return Err(ApiError::new(ErrorCode::Draining).retry_after(crate::app::DRAINING_RETRY));
    }
    let Ok(permit) = Arc::clone(&app.uploads).try_acquire_owned() else {
        return Err(
            ApiError::with_message(ErrorCode::ServerFull, "too many files are being transcribed")
                .retry_after(std::time::Duration::from_secs(2)),
        );
    };
    let token = app.tasks.token();
    let form = read_form(app, request).await?;
    let model = app
        .models
        .resolve(form.model.as_deref().unwrap_or_default())
        .map_err(|refused| ApiError::from(refused).param("model"))?;
    let decoding = parameters::decoding(form.decoding, app.decoding)?;
    let hotwords = parameters::hotwords(&form.hotwords)?;
    let (transcriber, warnings) = app.transcriber_options(model, Endpointing::default(), decoding, &hotwords);
    let file = form
        .file
        .ok_or_else(|| ApiError::new(ErrorCode::MissingFile).param("file"))?;
    if file.is_empty() {
        return Err(ApiError::with_message(ErrorCode::EmptyFile, "the file is empty").param("file"));
    }
    let request = FileRequest {
        source: Source::Bytes(file),
        selection: form.channel.map_or(ChannelSelection::Mix, ChannelSelection::One),
        model: model.into(),
        transcriber,
        warnings,
    };
    let mut transcription = FileTranscription::start(&app.engine, request, &app.limits)
        .await
        .map_err(api_error)?;
    let mut response = if form.stream {
        events(transcription, (permit, token))
    } else {
        let transcript = loop {
            match transcription.next().await {
                Ok(Progress::Final(_)) => {}
                Ok(Progress::Done(transcript)) => break transcript,
                Err(error) => return Err(api_error(error)),
            }
        };
        let language = app.language(model).to_string();
        write(
            transcript,
            &Answer {
                format: form.format,
                granularities: form.granularities,
                formatted: form.formatted,
                language,
            },
        )
    };
    list_header(response.headers_mut(), IGNORED, &form.ignored);
    metrics::counter!("waxwing_files_total", "end" => "done").increment(1);
    Ok(response)
}

fn api_error(error: FileError) -> ApiError {
    metrics::counter!("waxwing_files_total", "end" => error.code().as_str()).increment(1);
    match error {
        FileError::Refused(refusal) => refused(refusal),
        FileError::Unreadable { code, message } => ApiError::with_message(code, message).param("file"),
        FileError::Engine { code, message } => ApiError::with_message(code, message),
    }
}

async fn read_form(app: &App, request: Request) -> Result<Form, ApiError> {
    let length = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok())
        .and_then(|length| length.parse::<u64>().ok());
    if length.is_some_and(|length| length > app.limits.body_bytes as u64) {
        discard(request).await;
        return Err(too_large(app));
    }
    let mut multipart = Multipart::from_request(request, &())
        .await
        .map_err(|rejection| not_a_form(&rejection))?;
    let mut form = Form::default();
    while let Some(field) = multipart
        .next_field()
        .await
        .map_err(|error| broken_form(app, &error))?
    {
        read_field(app, &mut form, field).await?;
    }
    Ok(form)
}

async fn read_field(app: &App, form: &mut Form, field: Field<'_>) -> Result<(), ApiError> {
    let name = field.name().unwrap_or_default().to_string();
    if name == "file" {
        form.file = Some(read_bytes(app, field, app.limits.body_bytes).await?);
        return Ok(());
    }
    let bytes = read_bytes(app, field, limits::FIELD_BYTES).await?;
    let value = String::from_utf8_lossy(&bytes).trim().to_string();
    let invalid =
        |param, message: String| Err(ApiError::with_message(ErrorCode::InvalidField, message).param(param));
    match name.as_str() {
        "model" => form.model = Some(value),
        "response_format" => match Format::parse(&value) {
            Some(format) => form.format = format,
            None => {
                let value: String = value.chars().take(40).collect();
                let message = format!("unknown response_format `{value}`; known are {}", Format::NAMES);
                return invalid("response_format", message);
            }
        },
        "timestamp_granularities[]" | "timestamp_granularities" => match value.as_str() {
            "word" => granularities(form).words = true,
            "segment" => granularities(form).segments = true,
            _ => {
                return invalid(
                    "timestamp_granularities",
                    "timestamp_granularities are `word` and `segment`".into(),
                );
            }
        },
        "stream" => match value.as_str() {
            "true" | "True" | "1" => form.stream = true,
            "false" | "False" | "0" | "" => form.stream = false,
            _ => return invalid("stream", "`stream` must be true or false".into()),
        },
        "formatted" => match value.as_str() {
            "true" | "True" | "1" => form.formatted = true,
            "false" | "False" | "0" | "" => form.formatted = false,
            _ => return invalid("formatted", "`formatted` must be true or false".into()),
        },
        "hotwords" | "hotwords[]" => form.hotwords.extend(hotwords::list(&value)),
        "channel" => match value.parse() {
            Ok(channel) if channel < limits::CHANNELS => form.channel = Some(channel),
            _ => {
                return invalid(
                    "channel",
                    format!("`channel` must be from 0 to {}", limits::CHANNELS - 1),
                );
            }
        },
        "beam_width" => form.decoding.beam_width = Some(number("beam_width", &value, "whole number")?),
        "alternatives" => {
            form.decoding.alternatives = Some(number("alternatives", &value, "whole number")?);
        }
        "second_pass_width" => {
            form.decoding.second_pass_width = Some(number("second_pass_width", &value, "whole number")?);
        }
        "rescoring_weight" => {
            form.decoding.rescoring_weight = Some(number("rescoring_weight", &value, "number")?);
        }
        "language_model_weight" => {
            form.decoding.language_model_weight = Some(number("language_model_weight", &value, "number")?);
        }
        "word_bonus" => form.decoding.word_bonus = Some(number("word_bonus", &value, "number")?),
        // Harmless: the transcript is good without them, and the answer says that they had no effect.
        _ => {
            let known: String = name
                .chars()
                .filter(|letter| letter.is_ascii_graphic() && *letter != ',')
                .take(64)
                .collect();
            if !known.is_empty() && form.ignored.len() < 32 && !form.ignored.contains(&known) {
                form.ignored.push(known);
            }
        }
    }
    Ok(())
}

fn number<T: std::str::FromStr>(param: &'static str, value: &str, kind: &str) -> Result<T, ApiError> {
    value.parse().map_err(|_| {
        let value: String = value.chars().take(40).collect();
        let message = format!("`{param}` must be a {kind}, not `{value}`");
        ApiError::with_message(ErrorCode::InvalidField, message).param(param)
    })
}

/// Those asked for so far; asking for one means that the other is not wanted by default.
fn granularities(form: &mut Form) -> &mut Granularities {
    form.granularities.get_or_insert(Granularities {
        segments: false,
        words: false,
    })
}

async fn read_bytes(app: &App, mut field: Field<'_>, most: usize) -> Result<Bytes, ApiError> {
    let mut bytes = BytesMut::new();
    while let Some(chunk) = field.chunk().await.map_err(|error| broken_form(app, &error))? {
        if bytes.len() + chunk.len() > most {
            return Err(too_large(app));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

/// Reads on for a moment and throws away.
async fn discard(request: Request) {
    let mut body = request.into_body().into_data_stream();
    let reading = async { while let Some(Ok(_)) = body.next().await {} };
    // Whoever sends for longer sees the connection closed.
    let _ = tokio::time::timeout(DISCARD, reading).await;
}

fn too_large(app: &App) -> ApiError {
    let message = format!(
        "the request body is over the limit of {} MB",
        app.limits.body_bytes / (1024 * 1024)
    );
    ApiError::with_message(ErrorCode::BodyTooLarge, message).param("file")
}

fn not_a_form(rejection: &MultipartRejection) -> ApiError {
    ApiError::with_message(
        ErrorCode::BadRequest,
        format!("a multipart/form-data body is needed: {rejection}"),
    )
}

fn broken_form(app: &App, error: &MultipartError) -> ApiError {
    if error.status() == axum::http::StatusCode::PAYLOAD_TOO_LARGE {
        too_large(app)
    } else {
        ApiError::with_message(
            ErrorCode::BadRequest,
            format!("the form is broken: {}", error.body_text()),
        )
    }
}

fn write(transcript: Transcript, form: &Answer) -> Response {
    let Transcript {
        utterances,
        seconds,
        warnings,
    } = transcript;
    let plain = |kind: &'static str, text: String| ([(header::CONTENT_TYPE, kind)], text).into_response();
    let mut response = match form.format {
        Format::Json => {
            let body = Transcription::new(&utterances, seconds, form.formatted, warnings.clone());
            Json(body).into_response()
        }
        Format::Text if form.formatted => plain(
            "text/plain; charset=utf-8",
            subtitles::formatted_lines(&utterances),
        ),
        Format::Text => plain("text/plain; charset=utf-8", subtitles::text_lines(&utterances)),
        Format::Srt => plain("application/x-subrip; charset=utf-8", subtitles::srt(&utterances)),
        Format::Vtt => plain("text/vtt; charset=utf-8", subtitles::vtt(&utterances)),
        Format::VerboseJson => {
            let shown = Shown {
                granularities: form.granularities.unwrap_or_default(),
                formatted: form.formatted,
            };
            let body =
                VerboseTranscription::new(&utterances, seconds, &form.language, shown, warnings.clone());
            Json(body).into_response()
        }
    };
    list_header(response.headers_mut(), WARNINGS, &warnings);
    response
}

fn list_header(headers: &mut HeaderMap, name: HeaderName, values: &[String]) {
    if let Ok(value) = HeaderValue::from_str(&values.join(", "))
        && !values.is_empty()
    {
        headers.insert(name, value);
    }
}

/// Server-sent events: each final as a delta, then the whole. `held` is given back when the client is done or gone.
fn events<T: Send + 'static>(transcription: FileTranscription, held: T) -> Response {
    let state = Some((transcription, true, held));
    let stream = futures_util::stream::unfold(state, |state| async {
        let (mut transcription, first, held) = state?;
        let (event, next) = match transcription.next().await {
            Ok(Progress::Final(utterance)) => {
                let delta = if first {
                    utterance.text
                } else {
                    format!(" {}", utterance.text)
                };
                (StreamEvent::Delta { delta }, Some((transcription, false, held)))
            }
            Ok(Progress::Done(transcript)) => {
                let text = subtitles::text(&transcript.utterances);
                let usage = Usage::seconds(transcript.seconds);
                (
                    StreamEvent::Done {
                        text,
                        usage,
                        warnings: transcript.warnings,
                    },
                    None,
                )
            }
            Err(error) => (
                StreamEvent::Error {
                    error: api_error(error).body().error,
                },
                None,
            ),
        };
        let event = SseEvent::default().json_data(event).unwrap_or_default();
        Some((Ok::<_, Infallible>(event), next))
    });
    Sse::new(stream)
        .keep_alive(axum::response::sse::KeepAlive::default())
        .into_response()
}
