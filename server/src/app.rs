//! What all requests share: the engine, the models' names, access, limits, and how far the server is from its end.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use waxwing_frontend::pcm::ChannelSelection;
use waxwing_model::ctc::Hotword;
use waxwing_model::transcript::TranscriberOptions;

use crate::auth::Access;
use crate::engine::{AudioFormat, Class, Engine, EngineState, OpenError, Stream, StreamRequest};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::routes::{ApiError, Readiness};
use crate::search::Wanted;
use crate::session::parameters::{ModelNames, Parameters};
use crate::wire::code::ErrorCode;
use crate::wire::native::{self, Decoding, Latency};

/// The state of a server.
#[derive(Debug)]
pub struct App {
    /// Hears.
    pub engine: Arc<Engine>,
    /// The loaded models, the default first.
    pub models: ModelNames,
    /// What each of them waits for, in the same order.
    pub latencies: Vec<Latency>,
    /// What each of them was trained on, in the same order.
    pub languages: Vec<String>,
    /// How words are searched for where the client does not say, as far as the operator says.
    pub decoding: Decoding,
    /// Who may use the server.
    pub access: Access,
    /// What they may ask for.
    pub limits: Limits,
    /// What happened.
    pub metrics: Metrics,
    /// Bounds the uploads held in memory.
    pub uploads: Arc<Semaphore>,
    /// Cancelled when the server begins to stop.
    pub draining: CancellationToken,
    /// Sessions and files in progress.
    pub tasks: TaskTracker,
}

impl App {
    /// Opens a live stream. Also says what of the parameters has no effect.
    ///
    /// # Errors
    /// When there is no slot, or the server is stopping.
    pub fn open_live(&self, parameters: &Parameters) -> Result<(Stream, Vec<String>), ApiError> {
        if self.draining.is_cancelled() {
            return Err(ApiError::new(ErrorCode::Draining).retry_after(DRAINING_RETRY));
        }
        let (transcriber, remarks) = self.live_options(parameters);
        let stream = self
            .engine
            .open(&live_request(parameters, transcriber))
            .map_err(refused)?;
        Ok((stream, remarks))
    }

    /// What the decoder of a session with these parameters is told, and what of them has no effect.
    pub fn live_options(&self, parameters: &Parameters) -> (TranscriberOptions, Vec<String>) {
        self.transcriber_options(
            &parameters.model,
            parameters.endpointing,
            parameters.decoding,
            &parameters.hotwords,
        )
    }

    /// What the decoder of a stream of `model` is told, and what of the wishes has no effect.
    pub fn transcriber_options(
        &self,
        model: &str,
        endpointing: native::Endpointing,
        decoding: Decoding,
        hotwords: &[Hotword],
    ) -> (TranscriberOptions, Vec<String>) {
        let wanted = Wanted {
            endpointing,
            decoding,
            hotwords,
        };
        // A name that is not there is refused when the stream is opened.
        self.engine
            .models()
            .find(|loaded| loaded.id() == model)
            .map_or_else(Default::default, |loaded| wanted.of(loaded.as_ref()))
    }

    /// What a model waits for.
    pub fn latency(&self, model: &str) -> Latency {
        let index = self
            .models
            .0
            .iter()
            .position(|id| id == model)
            .unwrap_or_default();
        self.latencies.get(index).copied().unwrap_or(Latency {
            segment: 0,
            right_context: 0,
        })
    }

    /// The language of a model.
    pub fn language(&self, model: &str) -> &str {
        let index = self
            .models
            .0
            .iter()
            .position(|id| id == model)
            .unwrap_or_default();
        self.languages.get(index).map_or("", String::as_str)
    }

    /// What `GET /ready` says.
    pub fn readiness(&self) -> Readiness {
        let status = self.engine.status();
        let (state, wait) = match status.state {
            EngineState::Failed => ("failed", status.retry_after),
            EngineState::Draining => ("draining", DRAINING_RETRY),
            EngineState::Ready if self.draining.is_cancelled() => ("draining", DRAINING_RETRY),
            // A server whose models all hear whole recordings has no slots, and lacks none.
            EngineState::Ready if status.free == 0 && status.slots > 0 => ("full", status.retry_after),
            EngineState::Ready => ("ready", Duration::ZERO),
        };
        Readiness {
            state,
            slots: status.slots,
            free: status.free,
            retry_after_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// A stopping server is usually replaced by the next within seconds.
pub const DRAINING_RETRY: Duration = Duration::from_secs(5);

/// Turns the engine's refusal into an answer.
pub fn refused(error: OpenError) -> ApiError {
    match error {
        OpenError::Refused(refusal) => ApiError::new(refusal.code).retry_after(refusal.retry_after),
        OpenError::CannotStream(message) => {
            ApiError::with_message(ErrorCode::CannotStream, message).param("model")
        }
        OpenError::UnknownModel(_) => ApiError::with_message(ErrorCode::UnknownModel, error.to_string()),
        OpenError::Audio(error) => ApiError::with_message(ErrorCode::InvalidField, error.to_string()),
    }
}

/// The engine's request for a native session.
fn live_request(parameters: &Parameters, transcriber: TranscriberOptions) -> StreamRequest {
    let selection = parameters
        .channel
        .map_or(ChannelSelection::Mix, ChannelSelection::One);
    StreamRequest {
        model: Some(parameters.model.clone()),
        class: Class::Live,
        input_rate_hz: parameters.sample_rate_hz,
        format: AudioFormat::Raw {
            encoding: parameters.encoding,
            channels: parameters.channels,
            selection,
        },
        partials: parameters.partials,
        transcriber,
    }
}
