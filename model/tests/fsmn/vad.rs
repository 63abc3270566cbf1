//! The voice-activity decision: equality with FunASR's own (`tests/golden/fsmn_vad.py`), and streams of sound.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use waxwing_model::Config;
use waxwing_model::architecture::expected_tensors;
use waxwing_model::encode::{Encoder, Mode};
use waxwing_model::vad::{SpeechDetector, SpeechEvent, VadConfig, VadModel};

use crate::support::{Random, exact, golden, random_tensors};

fn config(mut settings: Value) -> VadConfig {
    if let Some(mode) = settings.get("detect_mode").and_then(Value::as_u64) {
        settings["detect_mode"] = json!(["single", "multiple"][mode as usize]);
    }
    let config: VadConfig = serde_json::from_value(settings).unwrap();
    config.problems(2, &mut |holds, problem| assert!(holds, "{problem}"));
    config
}

/// The original's `[start, end]`, where −1 stands for what is told in another call.
fn events(segments: &Value) -> Vec<SpeechEvent> {
    let told = |value: &Value| u64::try_from(value.as_i64().unwrap()).ok();
    segments
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|segment| {
            [
                told(&segment[0]).map(SpeechEvent::Start),
                told(&segment[1]).map(SpeechEvent::End),
            ]
        })
        .flatten()
        .collect()
}

fn decide(detector: &mut SpeechDetector, silence: &[f32]) -> Vec<SpeechEvent> {
    let mut events = Vec::new();
    let (last, frames) = silence.split_last().unwrap();
    for &silence in frames {
        detector.push(&[silence, 1.0 - silence], &mut events);
    }
    detector.push_last(&[*last, 1.0 - *last], &mut events);
    events
}

#[test]
fn decisions_equal_the_originals() {
    let table: Vec<Value> =
        serde_json::from_str(&std::fs::read_to_string(golden("fsmn_vad.json")).unwrap()).unwrap();
    let probabilities: HashMap<String, Tensor> =
        candle_core::safetensors::load(golden("fsmn_vad.safetensors"), &Device::Cpu).unwrap();
    let (mut segments, mut open) = (0, 0);
    for case in &table {
        let silence: Vec<f32> = probabilities[case["probabilities"].as_str().unwrap()]
            .to_vec1()
            .unwrap();
        let silence = &silence[..usize::try_from(case["frames"].as_u64().unwrap()).unwrap()];
        let mut detector = SpeechDetector::new(config(case["settings"].clone()));
        let found = decide(&mut detector, silence);
        assert_eq!(found, events(&case["offline"]), "{case}");
        if case["online"].is_array() {
            let online = events(&case["online"]);
            // In chunks, the original leaves a segment open that begins with the very last frame.
            let closed = found.len().min(online.len());
            assert_eq!(found[..closed], online, "{case}");
            open += found.len() - closed;
        }
        segments += found.len() / 2;

        detector.reset();
        assert_eq!(
            decide(&mut detector, silence),
            found,
            "a reset detector equals a new one"
        );
    }
    assert_eq!((table.len(), segments), (168, 497));
    assert!(open <= 2, "{open}");
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let config = VadConfig {
        frame_in_ms: 0,
        window_size_ms: 5,
        sil_pdf_ids: vec![4],
        ..VadConfig::default()
    };
    let mut problems = Vec::new();
    config.problems(2, &mut |holds, problem| {
        if !holds {
            problems.push(problem);
        }
    });
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(
        problems[0].starts_with("vad.frame_in_ms: expected at least 1"),
        "{problems:?}"
    );
    assert!(
        problems[1].contains("expected classes below 2, found [4]"),
        "{problems:?}"
    );
}

fn random_model() -> (VadModel, Encoder) {
    let config = json!({
        "format": 1, "id": "random-vad", "architecture": "funasr-fsmn",
        "features": {"type": "kaldi_fbank", "num_mel_bins": 8, "window_type": "hamming", "lfr": {"stack": 5, "stride": 1},
            "cmvn": {"mean": vec![5.0; 40], "inv_stddev": vec![0.3; 40]}},
        "vad": {"window_size_ms": 50, "sil_to_speech_time_thres": 30, "speech_to_sil_time_thres": 20, "speech_noise_thres": 0.0,
            "max_end_silence_time": 60, "lookback_time_start_point": 20, "lookahead_time_end_point": 10},
        "encoder": {"input_dim": 40, "input_affine_dim": 12, "fsmn_layers": 2, "linear_dim": 14, "proj_dim": 10, "lorder": 5,
            "output_affine_dim": 9, "output_dim": 2, "segment_length": 7},
    });
    let parsed = Config::from_json(&config.to_string()).unwrap();
    let mut tensors = random_tensors(&expected_tensors(&parsed, None), 11);
    // Far from even probabilities, so that decisions turn.
    let last = tensors.get_mut("out_linear2.linear.weight").unwrap();
    *last = (&*last * 12.0).unwrap();
    let bytes = safetensors::serialize(&tensors, None).unwrap();
    let config = config.to_string();
    (
        VadModel::from_parts(&config, &bytes).unwrap(),
        Encoder::from_parts(&config, &bytes).unwrap(),
    )
}

#[test]
fn a_stream_decides_as_the_whole_and_however_it_is_cut() {
    let (model, encoder) = random_model();
    let mut random = Random::new(5);
    // Noise whose loudness changes.
    let audio: Vec<f32> = (0..60)
        .flat_map(|index| {
            let gain = [0.001, 0.3, 0.02, 1.0, 0.0][index % 5];
            random
                .values(1_000 + 377 * (index % 7))
                .into_iter()
                .map(move |value| gain * value)
        })
        .collect();
    let run = |piece: usize| {
        let mut stream = model.stream(16_000, None).unwrap();
        let mut events = Vec::new();
        // A second run of the same stream object shows that its end makes it new.
        for _ in 0..2 {
            events.clear();
            for samples in audio.chunks(piece) {
                stream.push(samples, &mut events).unwrap();
            }
            stream.finish(&mut events).unwrap();
        }
        events
    };
    let found = run(audio.len());
    assert!(found.len() > 6, "{found:?}");
    for piece in [160, 333, 4_001] {
        assert_eq!(run(piece), found, "in pieces of {piece}");
    }

    // The frames that silence pushes out at the end are those of two more frames of zeros.
    let mut features = Vec::new();
    let mut extractor = model.features().extractor(16_000).unwrap();
    extractor.push(&audio, &mut features);
    extractor.push(&[0.0; 320], &mut features);
    let shape = (1, features.len() / 40, 40);
    let features = Tensor::from_vec(features, shape, &Device::Cpu).unwrap();
    let frames = 1 + (audio.len() - 400) / 160;
    let posteriors = encoder.encode(&features, &[frames], Mode::Whole).unwrap().output;
    let silence: Vec<f32> = exact(&posteriors)
        .chunks_exact(2)
        .take(frames)
        .map(|posteriors| posteriors[0] as f32)
        .collect();
    let mut detector = SpeechDetector::new(model.config().clone());
    assert_eq!(decide(&mut detector, &silence), found);
}
