//! The shipped small model's phones on real speech: they know what was said; and what is refused of a model that says phones.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

#[path = "support/sample.rs"]
mod sample;

use std::path::{Path, PathBuf};

use sample::heard;
use waxwing_model::Model;
use waxwing_model::device::Device;
use waxwing_model::model::{PRONUNCIATIONS_FILE, Parts};
use waxwing_model::precision::Precision;
use waxwing_model::transcript::{Decoding, Hears, TranscriberOptions};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("pretrained/en-fsmn")
}

/// What the model says of the page's sample, `(frames, output_dim) f32`.
fn said(model: &Model) -> Vec<f32> {
    heard(model).into_iter().flat_map(|(output, _)| output).collect()
}

/// The words of all finals.
fn finals(model: &Model, said: &[f32], decoding: Decoding) -> Vec<String> {
    let mut transcriber = model.transcriber(TranscriberOptions {
        decoding,
        ..TranscriberOptions::default()
    });
    let mut finals = Vec::new();
    transcriber.accept(said, &mut finals);
    assert!(transcriber.state_bytes() <= model.max_transcriber_bytes(&decoding));
    finals.extend(transcriber.finish());
    let words = finals.iter().flat_map(|last| &last.words);
    words.map(|word| word.word.clone()).collect()
}

#[test]
fn the_phones_know_what_was_said() {
    let model = Model::load(&directory()).unwrap();
    let (said, scorer) = (said(&model), model.text_scorer().unwrap());
    let Hears::BesideClasses(classes) = scorer.hears() else {
        unreachable!("phones stand beside the classes");
    };
    let width = model.geometry().output_dim;
    assert_eq!(width, model.tokens().len() + classes);
    let phones = said.chunks_exact(width);
    let phones: Vec<f32> = phones
        .flat_map(|frame| &frame[width - classes..])
        .copied()
        .collect();
    let words = finals(&model, &said, model.default_decoding());
    assert!(words.len() > 5, "{words:?}");
    // As many words, so that length says nothing.
    let backwards: Vec<&str> = words.iter().rev().map(String::as_str).collect();
    let judgement = scorer.judge(&phones, &[words.join(" "), backwards.join(" ")]);
    assert!(judgement.log_probs[0] > judgement.log_probs[1], "{judgement:?}");
    let (own, log_prob) = &judgement.found[0];
    let heard_too = words
        .iter()
        .filter(|word| own.split(' ').any(|other| other == *word));
    assert!(3 * heard_too.count() > 2 * words.len(), "{own} {words:?}");
    assert!(log_prob.is_finite());
}

/// Without their judgement, and on the best path, the classes alone decide; every way says most of the same words.
#[test]
fn what_is_not_judged_is_what_the_classes_say() {
    let model = Model::load(&directory()).unwrap();
    let (said, judged) = (said(&model), model.default_decoding());
    assert!(judged.rescoring_weight > 0.0);
    let words = finals(&model, &said, judged);
    let unjudged = Decoding {
        rescoring_weight: 0.0,
        ..judged
    };
    for decoding in [unjudged, Decoding::default()] {
        let other = finals(&model, &said, decoding);
        assert!(other.len() > 5, "{other:?}");
        let common = other.iter().filter(|word| words.contains(word)).count();
        assert!(3 * common > words.len(), "{other:?} {words:?}");
    }
}

fn refused(config_json: &str, pronunciations: Option<&[u8]>) -> String {
    let read = |name: &str| std::fs::read(directory().join(name)).unwrap();
    let (tokens, weights) = (read("tokens.txt"), read("model.safetensors"));
    let parts = Parts {
        config_json,
        tokens_txt: std::str::from_utf8(&tokens).unwrap(),
        text_tokens_txt: None,
        pronunciations,
        safetensors: &weights,
    };
    Model::from_parts_in(&parts, &Device::Cpu, Precision::F32)
        .unwrap_err()
        .to_string()
}

#[test]
fn phones_that_nobody_can_use_are_refused() {
    let config = std::fs::read_to_string(directory().join("config.json")).unwrap();
    let error = refused(&config, None);
    assert!(
        error.contains(PRONUNCIATIONS_FILE) && error.contains("missing"),
        "{error}"
    );
    let error = refused(&config, Some(b"one\tW AH N\ntwo\tT \xc3\x9c\n"));
    assert!(
        error.contains("line 2: expected phones") && error.contains(PRONUNCIATIONS_FILE),
        "{error}"
    );
    let list: &[u8] = b"one\tW AH N\n";
    let headless = config.replace("\"ctc\": {\n    \"blank\": 0\n  },", "");
    assert_ne!(headless, config);
    let error = refused(&headless, Some(list));
    assert!(
        error.contains("phones: expected an encoder that streams, with a CTC head"),
        "{error}"
    );
    let fewer = config.replace("\"ZH\"", "\"Z\"");
    assert_ne!(fewer, config);
    let error = refused(&fewer, Some(list));
    assert!(
        error.contains("phones.names: expected different names"),
        "{error}"
    );
    let more = config.replace("\"ZH\"", "\"ZH\", \"XX\"");
    let error = refused(&more, Some(list));
    assert!(error.contains("phones.weight"), "{error}");
}
