//! The engine under real threads, without sleeps: a deterministic model whose words follow the loudness of the audio,
//! and whose steps can be told to fail or to wait.

mod faults;
mod flow;
mod judgements;
mod mixture;
mod promises;
mod real;
mod systems;
mod warm_up;
mod weights;
mod whole;

use std::collections::VecDeque;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use waxwing_frontend::features::FeatureConfig;
use waxwing_model::encoder::{Geometry, StateCache, StepRow};
use waxwing_model::tokens::Tokens;
use waxwing_model::transcript::{Decoding, Endpointing, TranscriberOptions};

use super::*;

const CLASSES: usize = 5;
const NUM_FEATURES: usize = 80;
/// Loudness above which a frame is speech: silence is −0.75.
const SPEECH: f32 = -0.3;

/// What the next step shall do instead of succeeding.
pub(crate) enum Fault {
    /// Nothing: the step succeeds.
    None,
    Error,
    Panic,
    /// These rows (by index) become NaN, output and state.
    NonFinite(Vec<usize>),
    /// Says that it has begun and waits for the word to go on.
    Gate(Sender<usize>, Receiver<()>),
}

/// Two ends of a [`Fault::Gate`]: tells when the step has begun (with its rows), lets it go on.
pub(crate) struct Gate {
    pub(crate) begun: Receiver<usize>,
    pub(crate) go_on: Sender<()>,
}

/// A model with real geometry: 80 ms segments, 40 ms look-ahead, output frames of 20 ms. Each output frame of speech
/// is a letter that depends on all loudness since the stream's beginning, so any mix-up of states shows in the text.
pub(crate) struct Fake {
    id: &'static str,
    geometry: Geometry,
    tokens: Arc<Tokens>,
    faults: Mutex<VecDeque<Fault>>,
    /// The next look at the geometry panics: a stand-in for a bug outside the step.
    pub(crate) panic_outside: AtomicBool,
    hears_whole: bool,
    /// Output frames of a segment that are heard; the rest is silence to it.
    heard_frames: usize,
}

impl Fake {
    pub(crate) fn new() -> Arc<Self> {
        Self::named("fake")
    }

    pub(crate) fn named(id: &'static str) -> Arc<Self> {
        Self::make(id, false, 8, usize::MAX)
    }

    /// One with segments of 1.6 s that hears their first 60 ms only: whatever it hears, an utterance ends in every segment.
    pub(crate) fn short_spoken() -> Arc<Self> {
        Self::make("short-spoken", false, 160, 3)
    }

    /// One that cannot stream; it says of the same audio what the others say.
    pub(crate) fn hearing_whole(id: &'static str) -> Arc<Self> {
        Self::make(id, true, 2, usize::MAX)
    }

    fn make(id: &'static str, hears_whole: bool, segment_frames: usize, heard_frames: usize) -> Arc<Self> {
        Arc::new(Self {
            id,
            hears_whole,
            heard_frames,
            geometry: Geometry {
                num_features: NUM_FEATURES,
                segment_frames,
                lookahead_frames: 4,
                subsampling: 2,
                output_dim: CLASSES,
            },
            tokens: Arc::new(Tokens::parse("<blank>\n▁a\nb\n▁c\nd\n").unwrap()),
            faults: Mutex::default(),
            panic_outside: AtomicBool::new(false),
        })
    }

    /// Adds what a coming step shall do.
    pub(crate) fn then(&self, fault: Fault) {
        self.faults.lock().unwrap().push_back(fault);
    }

    /// Holds a coming step.
    pub(crate) fn gate(&self) -> Gate {
        let (say, begun) = channel();
        let (go_on, wait) = channel();
        self.then(Fault::Gate(say, wait));
        Gate { begun, go_on }
    }

    fn row(&self, row: &mut StepRow<'_>) {
        let lookahead = self.geometry.lookahead_frames * NUM_FEATURES;
        let (carried, sum) = row.state.values.split_at_mut(lookahead);
        let mut frames = if row.state.steps == 0 {
            Vec::new()
        } else {
            carried.to_vec()
        };
        frames.extend_from_slice(row.features);
        row.output.clear();
        let segment = self.geometry.segment_frames * NUM_FEATURES;
        self.say(&frames[..segment], &mut sum[0], row.output);
        carried.copy_from_slice(&frames[segment..]);
        row.state.steps += 1;
    }

    /// The log-probs of these frames behind frames of so much loudness.
    fn say(&self, frames: &[f32], sum: &mut f32, output: &mut Vec<f32>) {
        let pairs = frames.chunks(self.geometry.subsampling * NUM_FEATURES);
        for (index, pair) in pairs.enumerate() {
            let loudness = pair.iter().sum::<f32>() / pair.len() as f32;
            *sum += loudness;
            let class = if loudness < SPEECH || index >= self.heard_frames {
                0
            } else {
                1 + (sum.abs() * 3.0) as usize % (CLASSES - 1)
            };
            output.extend((0..CLASSES).map(|other| if other == class { -0.1 } else { -3.5 }));
        }
    }

    /// Does what the test asked of this step; the rows that shall become NaN.
    fn fault(&self, rows: usize) -> Result<Vec<usize>, StepFailed> {
        let fault = self.faults.lock().unwrap().pop_front().unwrap_or(Fault::None);
        match fault {
            Fault::None => {}
            Fault::Error => return Err(StepFailed("asked to fail".into())),
            Fault::Panic => panic!("asked to panic"),
            Fault::NonFinite(rows) => return Ok(rows),
            Fault::Gate(begun, go_on) => {
                // A test that is over has dropped its ends; then the step just goes on.
                let _ = begun.send(rows);
                let _ = go_on.recv();
            }
        }
        Ok(Vec::new())
    }
}

impl StepModel for Fake {
    fn id(&self) -> &str {
        self.id
    }

    fn geometry(&self) -> &Geometry {
        assert!(
            !self.panic_outside.swap(false, Relaxed),
            "asked to panic outside a step"
        );
        &self.geometry
    }

    fn features(&self) -> FeatureConfig {
        FeatureConfig::default()
    }

    fn sample_rate_hz(&self) -> u32 {
        16_000
    }

    fn tokens(&self) -> &Arc<Tokens> {
        &self.tokens
    }

    fn output_frame_seconds(&self) -> f64 {
        0.02
    }

    fn cannot_stream(&self) -> Option<&str> {
        self.hears_whole.then_some("it was made for that")
    }

    fn encode_whole(&self, features: &[f32]) -> Result<Vec<f32>, StepFailed> {
        let bad = self.fault(1)?;
        let heard = features.len() - self.geometry.lookahead_frames * NUM_FEATURES;
        let (mut sum, mut output) = (0.0, Vec::new());
        self.say(&features[..heard], &mut sum, &mut output);
        if !bad.is_empty() {
            output[0] = f32::NAN;
        }
        Ok(output)
    }

    fn new_state(&self) -> StateCache {
        StateCache::new(self.geometry.lookahead_frames * NUM_FEATURES + 1)
    }

    fn reset(&self, state: &mut StateCache) {
        state.values.fill(0.0);
        state.steps = 0;
    }

    fn step(&self, rows: &mut [StepRow<'_>]) -> Result<(), StepFailed> {
        let bad = self.fault(rows.len())?;
        for (index, row) in rows.iter_mut().enumerate() {
            self.row(row);
            if bad.contains(&index) {
                row.output[0] = f32::NAN;
                row.state.values.fill(f32::NAN);
            }
        }
        Ok(())
    }
}

/// Of several rows of a step, the words of one are found by whoever stepped it and those of the others by whoever is free.
pub(crate) fn options(workers: usize) -> EngineOptions {
    EngineOptions {
        workers,
        words_at_once: 1,
        ..EngineOptions::default()
    }
}

pub(crate) fn start(model: &Arc<Fake>, options: EngineOptions) -> Arc<Engine> {
    Engine::start(vec![Arc::clone(model) as Arc<dyn StepModel>], options).unwrap()
}

/// An engine of a model that streams and one that does not.
pub(crate) fn start_both(live: &Arc<Fake>, whole: &Arc<Fake>, options: EngineOptions) -> Arc<Engine> {
    let models = [live, whole].map(|model| Arc::clone(model) as Arc<dyn StepModel>);
    Engine::start(models.into(), options).unwrap()
}

/// As [`options`], with batches of up to `limit` rows whatever warm-up finds.
pub(crate) fn batching(limit: usize, workers: usize) -> EngineOptions {
    EngineOptions {
        batch_limit: Some(limit),
        ..options(workers)
    }
}

/// A stream and its engine, which has one worker.
pub(crate) fn begin() -> (Arc<Engine>, Stream) {
    let engine = start(&Fake::new(), options(1));
    let stream = engine.open(&request()).unwrap();
    (engine, stream)
}

/// Short pauses end utterances, so that short audio has several.
pub(crate) fn request() -> StreamRequest {
    StreamRequest {
        transcriber: TranscriberOptions {
            endpointing: Endpointing {
                silence_ms: 200,
                max_utterance_ms: 2_000,
            },
            ..TranscriberOptions::default()
        },
        ..StreamRequest::default()
    }
}

/// Bursts of noise and pauses, `seconds` of s16le at 16 kHz, the same for the same seed.
pub(crate) fn speech(seed: u64, seconds: f64) -> Vec<u8> {
    let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let total = (seconds * 16_000.0) as usize;
    let mut samples: Vec<i16> = Vec::with_capacity(total);
    while samples.len() < total {
        let length = 800 + (next() % 6_000) as usize;
        let loud = next() % 3 > 0;
        let amplitude = 2_000 + (next() % 12_000) as i64;
        for _ in 0..length {
            let value = if loud { next() as i64 % amplitude } else { 0 };
            samples.push(value as i16);
        }
    }
    samples.truncate(total);
    samples.iter().flat_map(|sample| sample.to_le_bytes()).collect()
}

pub(crate) fn send(stream: &Stream, audio: &[u8]) {
    stream.send(Input::Audio(Bytes::copy_from_slice(audio))).unwrap();
}

pub(crate) fn flush(stream: &Stream, id: &str) {
    stream.send(Input::Flush { id: Some(id.into()) }).unwrap();
}

pub(crate) fn stop(stream: &Stream) {
    stream.send(Input::Stop).unwrap();
}

/// What must not take long does not: a test that would hang fails.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what)
        .await
        .expect("in time")
}

/// All events to the end, checked against the promises about their order.
pub(crate) async fn rest(stream: &Stream) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some(event) = soon(stream.next_event()).await {
        events.push(event);
    }
    check(&events);
    events
}

/// I5 and I6: ids and times only grow, nothing lies behind the audio, one end and nothing after it.
pub(crate) fn check(events: &[Event]) {
    let (mut finals, mut last_end, mut processed) = (0, 0.0, 0.0);
    for (index, event) in events.iter().enumerate() {
        let is_end = matches!(event, Event::Done { .. } | Event::Error { .. });
        assert_eq!(is_end, index + 1 == events.len(), "{events:?}");
        match event {
            Event::Final(utterance) | Event::Partial(utterance) => {
                assert_eq!(utterance.utterance, finals);
                assert!(utterance.audio_processed >= processed, "{events:?}");
                processed = utterance.audio_processed;
                let mut end: f64 = last_end;
                for word in &utterance.words {
                    assert!(
                        word.start >= end - 1e-9 && word.end >= word.start,
                        "{utterance:?} after {last_end}"
                    );
                    end = word.end;
                }
                assert!(utterance.end <= utterance.audio_processed + 1e-9, "{utterance:?}");
                if matches!(event, Event::Final(_)) {
                    finals += 1;
                    last_end = utterance.end;
                }
            }
            Event::Done {
                audio_seconds,
                utterances,
            } => {
                assert_eq!(*utterances, finals);
                assert!(last_end <= *audio_seconds + 1e-9);
            }
            Event::Flushed { .. } | Event::Warning { .. } | Event::Error { .. } => {}
        }
    }
}

pub(crate) fn finals(events: &[Event]) -> Vec<Utterance> {
    let finals = events.iter().filter_map(|event| match event {
        Event::Final(utterance) => Some(utterance.clone()),
        _ => None,
    });
    finals.collect()
}

/// The transcript of one stream that has the engine to itself.
pub(crate) async fn alone(engine: &Engine, audio: &[u8]) -> Vec<Utterance> {
    let stream = engine.open(&request()).unwrap();
    send(&stream, audio);
    stop(&stream);
    finals(&rest(&stream).await)
}

pub(crate) fn error_code(events: &[Event]) -> Option<ErrorCode> {
    match events.last() {
        Some(Event::Error { code, .. }) => Some(*code),
        _ => None,
    }
}

/// Waits, without a clock, until no stream holds a slot (I7), and checks that no promise was broken on the way.
pub(crate) async fn all_free(engine: &Engine) {
    soon(async {
        while engine.shared.pool.counts().live + engine.shared.pool.counts().files > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for (name, value) in engine.counters().values() {
        assert!(!name.starts_with("promise") || value == 0, "{name} = {value}");
    }
}
