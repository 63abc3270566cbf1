//! Models that cannot stream: their files are encoded as a whole, on a thread of their own, and speech never waits for them.

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use waxwing_frontend::{Frontend, FrontendConfig};
use waxwing_model::Model;
use waxwing_model::ctc::best_path_tokens;
use waxwing_model::device::Device;
use waxwing_model::encode::{Mode, encode_file};
use waxwing_model::hypothesis::join_tokens;

use super::weights::{TOKENS, bytes, weights};
use super::*;

/// A file for the model of this id.
fn file(model: &str) -> StreamRequest {
    StreamRequest {
        model: Some(model.into()),
        class: Class::File,
        format: AudioFormat::Samples,
        partials: false,
        ..request()
    }
}

fn samples(audio: &[u8]) -> Vec<f32> {
    let pairs = audio.chunks_exact(2);
    pairs
        .map(|pair| f32::from(i16::from_le_bytes([pair[0], pair[1]])) / 32_768.0)
        .collect()
}

fn give(stream: &Stream, samples: &[f32]) {
    for block in samples.chunks(5_000) {
        stream.send(Input::Samples(block.to_vec())).unwrap();
    }
    stop(stream);
}

async fn posted(engine: &Engine, model: &str, samples: &[f32]) -> Vec<Event> {
    let stream = engine.open(&file(model)).unwrap();
    give(&stream, samples);
    rest(&stream).await
}

fn both(options: EngineOptions) -> (Arc<Fake>, Arc<Fake>, Arc<Engine>) {
    let (live, whole) = (Fake::new(), Fake::hearing_whole("recorder"));
    let engine = start_both(&live, &whole, options);
    (live, whole, engine)
}

#[tokio::test]
async fn a_stream_of_it_is_refused_with_the_reason_and_what_to_do() {
    let (_live, _whole, engine) = both(options(1));
    let model = Some("recorder".into());
    let error = engine.open(&StreamRequest { model, ..request() }).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`recorder` cannot stream: it was made for that; send the recording by POST /v1/audio/transcriptions, at most 120 s of \
         it, or name a model that streams: fake"
    );
    assert_eq!(engine.status().state, EngineState::Ready);
    all_free(&engine).await;
}

#[tokio::test]
async fn an_engine_without_a_model_that_streams_has_no_slots_and_takes_files() {
    let whole = Fake::hearing_whole("recorder");
    let engine = start(&whole, options(2));
    let status = engine.status();
    assert_eq!(
        (status.state, status.slots, status.free),
        (EngineState::Ready, 0, 0)
    );
    let said = finals(&posted(&engine, "recorder", &samples(&speech(3, 2.0))).await);
    assert!(!said.is_empty());
    all_free(&engine).await;
}

#[tokio::test]
async fn nothing_and_a_single_sample_are_files_too() {
    let (_live, _whole, engine) = both(options(1));
    let events = posted(&engine, "recorder", &[]).await;
    let done = |audio_seconds| Event::Done {
        audio_seconds,
        utterances: 0,
    };
    assert_eq!(events, [done(0.0)]);
    assert_eq!(engine.counters().whole_utterances.load(Relaxed), 0);
    assert_eq!(posted(&engine, "recorder", &[0.0]).await, [done(1.0 / 16_000.0)]);
    assert_eq!(engine.counters().whole_utterances.load(Relaxed), 1);
    all_free(&engine).await;
}

#[tokio::test]
async fn a_file_of_the_limit_is_heard_and_one_sample_more_is_refused() {
    let whole_limit = Duration::from_secs(2);
    let (_live, _whole, engine) = both(EngineOptions {
        whole_limit,
        ..options(1)
    });
    let audio = samples(&speech(5, 2.0));
    assert!(!finals(&posted(&engine, "recorder", &audio).await).is_empty());
    let mut longer = audio.clone();
    longer.push(0.0);
    let events = posted(&engine, "recorder", &longer).await;
    let [Event::Error { code, message }] = events.as_slice() else {
        panic!("{events:?}")
    };
    assert_eq!(*code, ErrorCode::TooLongForModel);
    assert!(message.contains("at most 2 s"), "{message}");
    // A model that streams takes it.
    assert!(!finals(&posted(&engine, "fake", &longer).await).is_empty());
    assert_eq!(engine.counters().whole_utterances.load(Relaxed), 1);
    all_free(&engine).await;
}

/// The one worker is free while a file is encoded: speech is heard to its end, with the words that it has alone.
#[tokio::test]
async fn speech_does_not_wait_for_a_forward() {
    let (_live, whole, engine) = both(options(1));
    let audio = speech(4, 3.0);
    let expected = alone(&engine, &audio).await;
    let gate = whole.gate();
    let posted = engine.open(&file("recorder")).unwrap();
    give(&posted, &samples(&audio));
    assert_eq!(gate.begun.recv().unwrap(), 1);
    assert_eq!(alone(&engine, &audio).await, expected);
    gate.go_on.send(()).unwrap();
    let words = |said: &[Utterance]| -> String { said.iter().map(|said| said.text.as_str()).collect() };
    assert!(!words(&finals(&rest(&posted).await)).is_empty());
    all_free(&engine).await;
}

/// However many files wait, one is computed at a time, in their order; a client that left costs no forward.
#[tokio::test]
async fn files_take_turns_and_who_leaves_costs_nothing() {
    let (_live, whole, engine) = both(options(2));
    let gate = whole.gate();
    let audio = samples(&speech(6, 1.0));
    let streams: Vec<_> = (0..3)
        .map(|_| {
            let stream = engine.open(&file("recorder")).unwrap();
            give(&stream, &audio);
            stream
        })
        .collect();
    gate.begun.recv().unwrap();
    let mut streams = streams.into_iter();
    let (first, left, third) = (
        streams.next().unwrap(),
        streams.next().unwrap(),
        streams.next().unwrap(),
    );
    assert_eq!(engine.shared.queue_lock().whole.len(), 2);
    drop(left);
    gate.go_on.send(()).unwrap();
    let said = finals(&rest(&first).await);
    assert_eq!(finals(&rest(&third).await), said);
    assert_eq!(engine.counters().whole_utterances.load(Relaxed), 2);
    all_free(&engine).await;
}

#[tokio::test]
async fn more_files_than_places_are_refused_at_once() {
    let (_live, whole, engine) = both(EngineOptions {
        file_slots: 1,
        ..options(1)
    });
    let gate = whole.gate();
    let first = engine.open(&file("recorder")).unwrap();
    give(&first, &samples(&speech(6, 1.0)));
    gate.begun.recv().unwrap();
    let Err(OpenError::Refused(refusal)) = engine.open(&file("recorder")) else {
        panic!("two files in one place");
    };
    assert_eq!(refusal.code, ErrorCode::ServerFull);
    // The client leaves in mid-forward: its place is free when that is over.
    drop(first);
    gate.go_on.send(()).unwrap();
    all_free(&engine).await;
    assert!(engine.open(&file("recorder")).is_ok());
}

#[tokio::test]
async fn a_forward_that_fails_ends_its_file_only() {
    let (_live, whole, engine) = both(options(1));
    let audio = samples(&speech(2, 1.0));
    let expected = posted(&engine, "recorder", &audio).await;
    for (fault, code) in [
        (Fault::Error, ErrorCode::EngineFailed),
        (Fault::Panic, ErrorCode::EngineFailed),
        (Fault::NonFinite(vec![0]), ErrorCode::NonFinite),
    ] {
        whole.then(fault);
        assert_eq!(error_code(&posted(&engine, "recorder", &audio).await), Some(code));
        assert_eq!(posted(&engine, "recorder", &audio).await, expected);
        assert_eq!(engine.status().state, EngineState::Ready);
    }
    all_free(&engine).await;
}

#[tokio::test]
async fn a_forward_that_hangs_ends_everything_and_says_so() {
    let hang_after = Duration::from_millis(50);
    let (_live, whole, engine) = both(EngineOptions {
        hang_after,
        ..options(1)
    });
    let gate = whole.gate();
    let hung = engine.open(&file("recorder")).unwrap();
    let speaker = engine.open(&request()).unwrap();
    give(&hung, &samples(&speech(2, 0.01)));
    gate.begun.recv().unwrap();
    soon(engine.failed()).await;
    for stream in [&hung, &speaker] {
        assert_eq!(error_code(&rest(stream).await), Some(ErrorCode::EngineFailed));
    }
    gate.go_on.send(()).unwrap();
    all_free(&engine).await;
}

#[test]
fn one_that_fails_its_warm_up_is_not_served() {
    for fault in [Fault::Error, Fault::Panic] {
        let whole = Fake::hearing_whole("recorder");
        whole.then(fault);
        let error = Engine::start(vec![whole], options(1)).unwrap_err().to_string();
        assert!(
            error.starts_with("model `recorder`: the warm-up step failed"),
            "{error}"
        );
    }
}

/// A configuration, without its weights.
fn config(id: &str, architecture: &str, features: serde_json::Value, encoder: serde_json::Value) -> String {
    serde_json::json!({
        "format": 1, "id": id, "architecture": architecture, "sample_rate": 16_000, "features": features, "encoder": encoder,
        "ctc": {"blank": 0},
    })
    .to_string()
}

/// The log-probs that `waxwing encode` makes of the features of this audio: `(frames, classes)`, and the frames.
fn encoded(model: &Model, json: &str, weights: &[u8], audio: &[f32]) -> (Vec<f32>, usize) {
    let mut frontend = Frontend::new(FrontendConfig {
        input_rate_hz: 16_000,
        model_rate_hz: 16_000,
        features: model.features().clone(),
    })
    .unwrap();
    let mut features = Vec::new();
    frontend.push(audio, &mut features);
    let geometry = model.geometry();
    let frames = (audio.len() as f64 / 16_000.0 / model.feature_frame_seconds()).ceil() as usize;
    let frames = frames.next_multiple_of(geometry.subsampling);
    while features.len() < (frames + geometry.lookahead_frames) * geometry.num_features {
        frontend.push(&[0.0; 16], &mut features);
    }
    let total = features.len() / geometry.num_features;
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("config.json"), json).unwrap();
    std::fs::write(at("model.safetensors"), weights).unwrap();
    let (features, lengths) = (
        bytes(&features),
        ((total - geometry.lookahead_frames) as i64).to_le_bytes(),
    );
    let shape = vec![1, total, geometry.num_features];
    let tensors = [
        ("features", TensorView::new(Dtype::F32, shape, &features).unwrap()),
        ("lengths", TensorView::new(Dtype::I64, vec![1], &lengths).unwrap()),
    ];
    std::fs::write(at("in"), safetensors::serialize(tensors, None).unwrap()).unwrap();
    encode_file(directory.path(), &at("in"), Mode::Whole, &at("out")).unwrap();
    let out = std::fs::read(at("out")).unwrap();
    let out = SafeTensors::deserialize(&out).unwrap();
    let frames = out.tensor("lengths").unwrap().data()[..8].try_into().unwrap();
    let frames = i64::from_le_bytes(frames) as usize;
    let log_probs = out.tensor("log_probs").unwrap();
    let values = log_probs.data().as_chunks::<4>().0;
    let values = values.iter().map(|value| f32::from_le_bytes(*value));
    (values.take(frames * model.tokens().len()).collect(), frames)
}

/// What a model that cannot stream says of a file is what `encode` and the best path make of the same features.
async fn posts_as_encoded_and_decoded(json: &str) {
    let weights = weights(json);
    let model = Arc::new(Model::from_parts(json, TOKENS, &weights, &Device::Cpu).unwrap());
    assert!(model.cannot_stream().is_some());
    let audio = samples(&speech(11, 2.3));
    let (log_probs, frames) = encoded(&model, json, &weights, &audio);
    let best = best_path_tokens(model.tokens(), &log_probs);
    let frame = Duration::from_secs_f64(model.output_frame_seconds());
    let letters = |text: &str| text.replace(' ', "");
    let decoded = join_tokens(model.tokens(), &best.tokens, frame, frames as u64);
    let decoded = letters(&decoded.unwrap().text());
    let mut transcriber = model.transcriber(TranscriberOptions::default());
    let mut utterances = Vec::new();
    transcriber.accept(&log_probs, &mut utterances);
    utterances.extend(transcriber.finish());
    let expected: Vec<String> = utterances.iter().map(|said| said.text()).collect();

    let engine = Engine::start(vec![Arc::clone(&model) as Arc<dyn StepModel>], options(1)).unwrap();
    let stream = engine
        .open(&StreamRequest {
            transcriber: TranscriberOptions::default(),
            ..file(model.id())
        })
        .unwrap();
    give(&stream, &audio);
    let heard: Vec<String> = finals(&rest(&stream).await)
        .into_iter()
        .map(|said| said.text)
        .collect();
    assert_eq!(heard, expected);
    // The pauses that end utterances may cut a word in two, the letters are the same.
    assert_eq!(letters(&heard.concat()), decoded);
    assert!(decoded.len() > 2, "{decoded}");
    // However short, a file is heard.
    for length in [1, 100, 700] {
        let events = posted(&engine, model.id(), &audio[..length]).await;
        let done = matches!(events.last(), Some(Event::Done { .. }));
        assert!(done, "{length} samples: {events:?}");
    }
    all_free(&engine).await;
}

#[tokio::test]
async fn a_bidirectional_recurrent_model_posts_as_encoded_and_decoded() {
    let features = serde_json::json!({"type": "streaming_log_mel"});
    let encoder = serde_json::json!({
        "cell": "gru", "input_size": 80, "hidden_size": 12, "num_layers": 2, "bidirectional": true,
    });
    posts_as_encoded_and_decoded(&config("gru", "recurrent", features, encoder)).await;
}

#[tokio::test]
async fn a_sense_voice_model_posts_as_encoded_and_decoded() {
    let features = serde_json::json!({"type": "kaldi_fbank", "lfr": {"stack": 7, "stride": 6}});
    let encoder = serde_json::json!({
        "input_size": 560, "output_size": 16, "attention_heads": 2, "linear_units": 24, "num_blocks": 2, "tp_blocks": 1,
        "embed_rows": 4, "queries": [0, 1, 2, 3],
    });
    posts_as_encoded_and_decoded(&config("sense", "sanm", features, encoder)).await;
}

#[tokio::test]
async fn a_csr_model_posts_as_encoded_and_decoded() {
    let features = serde_json::json!({"type": "csr_spectrogram"});
    let encoder = serde_json::json!({"variant": "two_lstm"});
    posts_as_encoded_and_decoded(&config("csr", "csr-convnet", features, encoder)).await;
}
