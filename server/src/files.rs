//! From a file to its transcript, through the same streaming steps as a microphone: for `POST` and for `transcribe`. A model that cannot
//! stream hears the file as a whole.
//!
//! The container is decoded on a blocking thread, block by block, into a short queue; the engine takes samples as it
//! has room. Dropping a [`FileTranscription`] ends both.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use waxwing_frontend::container::{AudioFile, ContainerError, DecodeLimits};
use waxwing_frontend::pcm::ChannelSelection;
use waxwing_model::transcript::TranscriberOptions;

use crate::engine::{AudioFormat, Class, Engine, Event, Input, OpenError, Stream, StreamRequest, Utterance};
use crate::limits::{self, Limits};
use crate::wire::code::ErrorCode;

/// Blocks that may wait between the decoder and the engine.
const QUEUE_BLOCKS: usize = 4;

/// Where the bytes are.
#[derive(Debug)]
pub enum Source {
    /// In memory.
    Bytes(bytes::Bytes),
    /// On disk.
    Path(PathBuf),
    /// Standard input.
    Stdin,
}

/// Why a file has no transcript.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file is at fault.
    #[error("{message}")]
    Unreadable {
        /// [`ErrorCode::EmptyFile`], [`ErrorCode::BodyTooLarge`] or [`ErrorCode::UnsupportedFile`].
        code: ErrorCode,
        /// What is wrong with it.
        message: String,
    },
    /// There is no slot, or the audio cannot be served.
    #[error(transparent)]
    Refused(#[from] OpenError),
    /// The engine failed.
    #[error("{message}")]
    Engine {
        /// From the closed list.
        code: ErrorCode,
        /// What happened.
        message: String,
    },
}

impl FileError {
    /// The code of the closed list.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Unreadable { code, .. } | Self::Engine { code, .. } => *code,
            Self::Refused(OpenError::Refused(refusal)) => refusal.code,
            Self::Refused(OpenError::UnknownModel(_)) => ErrorCode::UnknownModel,
            Self::Refused(OpenError::CannotStream(_)) => ErrorCode::CannotStream,
            Self::Refused(OpenError::Audio(_)) => ErrorCode::UnsupportedFile,
        }
    }

    /// A reader or decoder that broke for a reason of ours.
    fn internal() -> Self {
        Self::Engine {
            code: ErrorCode::Internal,
            message: ErrorCode::Internal.text().into(),
        }
    }
}

impl From<ContainerError> for FileError {
    fn from(error: ContainerError) -> Self {
        let code = match error {
            ContainerError::Empty | ContainerError::NoAudio { .. } => ErrorCode::EmptyFile,
            ContainerError::TooManyBytes { .. } | ContainerError::TooLong { .. } => ErrorCode::BodyTooLarge,
            _ => ErrorCode::UnsupportedFile,
        };
        Self::Unreadable {
            code,
            message: error.to_string(),
        }
    }
}

/// What to transcribe and how.
#[derive(Debug)]
pub struct FileRequest {
    /// The bytes.
    pub source: Source,
    /// The one channel to hear, or the mean of all.
    pub selection: ChannelSelection,
    /// Id of a loaded model.
    pub model: String,
    /// How words are searched for.
    pub transcriber: TranscriberOptions,
    /// What of the wishes has no effect; the transcript says it.
    pub warnings: Vec<String>,
}

/// What is known of a file when it is open.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Header {
    rate_hz: u32,
    duration: Option<Duration>,
}

/// What the decoding thread hands over.
enum Block {
    Samples(Vec<f32>),
    /// The end of the audio, with what was odd about the file.
    End(Vec<String>),
    Failed(FileError),
}

/// What a file was heard to say.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Transcript {
    /// In order.
    pub utterances: Vec<Utterance>,
    /// Of audio.
    pub seconds: f64,
    /// What was odd about the file.
    pub warnings: Vec<String>,
}

/// Progress of a transcription.
#[derive(Debug, Clone, PartialEq)]
pub enum Progress {
    /// An utterance that will not change.
    Final(Utterance),
    /// Everything; nothing follows.
    Done(Transcript),
}

/// A file that is being transcribed.
#[derive(Debug)]
pub struct FileTranscription {
    stream: Stream,
    blocks: Option<mpsc::Receiver<Block>>,
    waiting: Option<Vec<f32>>,
    transcript: Transcript,
    duration: Option<Duration>,
}

impl std::fmt::Debug for Block {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Block")
    }
}

impl FileTranscription {
    /// Opens the file and takes a slot for it.
    ///
    /// # Errors
    /// When the file cannot be read or no slot is free.
    pub async fn start(engine: &Engine, request: FileRequest, limits: &Limits) -> Result<Self, FileError> {
        let (header_out, header) = oneshot::channel();
        let (blocks_out, blocks) = mpsc::channel(QUEUE_BLOCKS);
        let (source, selection, bounds) = (request.source, request.selection, limits.clone());
        let decoding =
            tokio::task::spawn_blocking(move || decode(source, selection, &bounds, header_out, &blocks_out));
        let header = match header.await {
            Ok(header) => header?,
            // A decoder that panicked says nothing of its own.
            Err(_) => {
                let panicked = decoding.await.is_err();
                tracing::error!(panicked, "decoding a file failed");
                return Err(FileError::Unreadable {
                    code: ErrorCode::UnsupportedFile,
                    message: "the file could not be decoded".into(),
                });
            }
        };
        let stream = engine.open(&StreamRequest {
            model: Some(request.model),
            class: Class::File,
            input_rate_hz: header.rate_hz,
            format: AudioFormat::Samples,
            partials: false,
            transcriber: request.transcriber,
        })?;
        Ok(Self {
            stream,
            blocks: Some(blocks),
            waiting: None,
            transcript: Transcript {
                warnings: request.warnings,
                ..Transcript::default()
            },
            duration: header.duration,
        })
    }

    /// Length by the file's header, which may say nothing or be wrong.
    pub fn declared_duration(&self) -> Option<Duration> {
        self.duration
    }

    /// The next final, and at last the whole.
    ///
    /// # Errors
    /// When the file turns out to be broken beyond use, or the engine fails.
    pub async fn next(&mut self) -> Result<Progress, FileError> {
        loop {
            let wants_block = self.waiting.is_none() && self.blocks.is_some();
            tokio::select! {
                event = self.stream.next_event() => match event {
                    Some(Event::Final(utterance)) => {
                        self.transcript.utterances.push(utterance.clone());
                        return Ok(Progress::Final(utterance));
                    }
                    Some(Event::Warning { message, .. }) => self.transcript.warnings.push(message),
                    Some(Event::Done { audio_seconds, .. }) => {
                        self.transcript.seconds = audio_seconds;
                        return Ok(Progress::Done(std::mem::take(&mut self.transcript)));
                    }
                    Some(Event::Error { code, message }) => return Err(FileError::Engine { code, message }),
                    Some(Event::Partial(_) | Event::Flushed { .. }) => {}
                    None => return Err(FileError::internal()),
                },
                block = next_block(&mut self.blocks), if wants_block => self.take(block)?,
                () = self.stream.writable(), if self.waiting.is_some() => {
                    if let Some(samples) = self.waiting.take() {
                        // A stream that takes nothing more says why by its last event.
                        let _ = self.stream.send(Input::Samples(samples));
                    }
                }
            }
        }
    }

    fn take(&mut self, block: Option<Block>) -> Result<(), FileError> {
        match block {
            Some(Block::Samples(samples)) => self.waiting = Some(samples),
            Some(Block::End(warnings)) => {
                self.blocks = None;
                self.transcript.warnings.extend(warnings);
                let _ = self.stream.send(Input::Stop);
            }
            Some(Block::Failed(error)) => return Err(error),
            None => return Err(FileError::internal()),
        }
        Ok(())
    }
}

async fn next_block(blocks: &mut Option<mpsc::Receiver<Block>>) -> Option<Block> {
    match blocks {
        Some(blocks) => blocks.recv().await,
        None => None,
    }
}

/// Runs on a thread of its own; ends when the receiver is gone.
fn decode(
    source: Source,
    selection: ChannelSelection,
    limits: &Limits,
    header: oneshot::Sender<Result<Header, FileError>>,
    blocks: &mpsc::Sender<Block>,
) {
    let begun = Instant::now();
    let mut file = match open(source, selection, limits) {
        Ok(file) => file,
        Err(error) => {
            // Nobody to tell is as good as told.
            let _ = header.send(Err(error));
            return;
        }
    };
    let known = Header {
        rate_hz: file.rate_hz(),
        duration: file.declared_duration(),
    };
    if header.send(Ok(known)).is_err() {
        return;
    }
    // Time spent waiting for the engine is not the file's fault.
    let mut spent = begun.elapsed();
    loop {
        let begun = Instant::now();
        let mut samples = Vec::new();
        let more = file.next_block(&mut samples);
        spent += begun.elapsed();
        let block = match more {
            _ if spent > limits.file_decode => Block::Failed(FileError::from(ContainerError::TimedOut)),
            Ok(true) => Block::Samples(samples),
            Ok(false) => Block::End(file.warnings().iter().map(ToString::to_string).collect()),
            Err(error) => Block::Failed(error.into()),
        };
        let last = !matches!(block, Block::Samples(_));
        if blocks.blocking_send(block).is_err() || last {
            return;
        }
    }
}

fn open(source: Source, selection: ChannelSelection, limits: &Limits) -> Result<AudioFile, FileError> {
    let bounds = DecodeLimits {
        max_bytes: limits.body_bytes as u64,
        max_duration: limits.file_audio,
        max_channels: limits::CHANNELS,
        ..DecodeLimits::default()
    };
    let file = match source {
        Source::Bytes(bytes) => AudioFile::from_bytes(bytes, bounds, selection),
        Source::Stdin => AudioFile::from_stream(std::io::stdin().lock(), bounds, selection),
        Source::Path(path) => {
            let file = std::fs::File::open(&path).map_err(|error| FileError::Unreadable {
                code: ErrorCode::MissingFile,
                message: format!("cannot open it: {error}"),
            })?;
            AudioFile::open(file, bounds, selection)
        }
    };
    Ok(file?)
}
