//! The shipped model's second listener on real speech: it knows what was said, and its judgement reaches the finals.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

#[path = "support/sample.rs"]
mod sample;

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use sample::heard;
use waxwing_model::Model;
use waxwing_model::device::Device;
use waxwing_model::error::ModelError;
use waxwing_model::loader::WEIGHTS_FILE;
use waxwing_model::model::{CONFIG_FILE, PRONUNCIATIONS_FILE, Parts, TEXT_TOKENS_FILE, TOKENS_FILE};
use waxwing_model::pauses;
use waxwing_model::precision::Precision;
use waxwing_model::transcript::{Decoding, Judgement, TextScorer, TranscriberOptions, Utterance};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("pretrained/en-emformer")
}

fn finals(model: &Model, steps: &[(Vec<f32>, Vec<f32>)], decoding: Decoding) -> Vec<Utterance> {
    let options = TranscriberOptions {
        decoding,
        ..TranscriberOptions::default()
    };
    let mut transcriber = model.transcriber(options);
    let mut finals = Vec::new();
    for (log_probs, features) in steps {
        transcriber.accept_heard(log_probs, features, &mut finals);
        assert!(transcriber.state_bytes() <= model.max_transcriber_bytes(&decoding));
    }
    finals.extend(transcriber.finish());
    finals
}

/// The features of the page's sample, what the model says in it, and the same words in two other orders: as many, so that length says nothing.
fn said_and_turned(model: &Model) -> (Vec<f32>, Vec<String>, [String; 3]) {
    let steps = heard(model);
    let frames: Vec<f32> = steps.iter().flat_map(|(_, features)| features).copied().collect();
    let said: Vec<String> = finals(model, &steps, model.default_decoding())
        .iter()
        .flat_map(|last| &last.words)
        .map(|word| word.word.clone())
        .collect();
    assert!(said.len() > 5, "{said:?}");
    let backwards: Vec<&str> = said.iter().rev().map(String::as_str).collect();
    let (first, second) = said.split_at(said.len() / 2);
    let turned = [second, first].concat().join(" ");
    let texts = [said.join(" "), backwards.join(" "), turned];
    (frames, said, texts)
}

#[test]
fn the_second_listener_knows_what_was_said() {
    let model = Model::load(&directory()).unwrap();
    let (frames, said, texts) = said_and_turned(&model);
    // By what it would write alone, and by the phones that it hears too.
    let listener: Arc<dyn TextScorer> = model.second_listener().cloned().unwrap();
    for scorer in [&listener, model.text_scorer().unwrap()] {
        knows(scorer.as_ref(), &frames, &said, &texts);
    }
}

fn knows(scorer: &dyn TextScorer, frames: &[f32], said: &[String], texts: &[String; 3]) {
    assert_eq!(frames.len() % scorer.hears().frame_len(), 0);
    let texts = [texts.as_slice(), &["\u{4f60}".into()]].concat();
    let Judgement {
        log_probs: scores,
        found,
    } = scorer.judge(frames, &texts);
    let (own, log_prob) = &found[0];
    let heard_too = said
        .iter()
        .filter(|word| own.split(' ').any(|other| other == word.as_str()));
    assert!(
        2 * heard_too.count() > said.len() && *log_prob < 0.0,
        "{found:?} {said:?}"
    );
    let [Some(right), others @ ..] = scores.as_slice() else {
        unreachable!("{scores:?}");
    };
    assert!(right.is_finite() && *right < 0.0);
    for other in others.iter().take(2).flatten() {
        assert!(right > other, "{scores:?}");
    }
    assert_eq!(scores.last(), Some(&None), "no vocabulary spells this");
}

/// The sum of what the text decoder says and of what the phones say, times a weight: none of them where it is 0, twice as much where it is doubled.
#[test]
fn the_phones_of_a_second_listener_count_by_their_weight() {
    let model = Model::load(&directory()).unwrap();
    let (frames, _, texts) = said_and_turned(&model);
    let shipped = model.config().second_listener.as_ref().unwrap();
    let weight = shipped.phone_head.as_ref().unwrap().weight;
    let judged = |weight: f32| -> Vec<f64> {
        let model = reconfigured(|config| {
            config["second_listener"]["phone_head"]["weight"] = weight.into();
        });
        let judgement = model.unwrap().text_scorer().unwrap().judge(&frames, &texts);
        judgement.log_probs.into_iter().map(Option::unwrap).collect()
    };
    let written = model.second_listener().unwrap().judge(&frames, &texts);
    let (none, once, twice) = (judged(0.0), judged(weight), judged(2.0 * weight));
    for ((none, written), (once, twice)) in none.iter().zip(written.log_probs).zip(once.iter().zip(&twice)) {
        assert_eq!(Some(*none), written);
        assert!(once < none && ((twice - none) - 2.0 * (once - none)).abs() < 1e-6 * twice.abs());
    }
}

/// The shipped model with another configuration.
fn reconfigured(change: impl Fn(&mut serde_json::Value)) -> Result<Model, ModelError> {
    let read = |name: &str| std::fs::read(directory().join(name)).unwrap();
    let text = |name: &str| String::from_utf8(read(name)).unwrap();
    let mut config = serde_json::from_str(&text(CONFIG_FILE)).unwrap();
    change(&mut config);
    let parts = Parts {
        config_json: &config.to_string(),
        tokens_txt: &text(TOKENS_FILE),
        text_tokens_txt: Some(&text(TEXT_TOKENS_FILE)),
        pronunciations: Some(&read(PRONUNCIATIONS_FILE)),
        safetensors: &read(WEIGHTS_FILE),
    };
    Model::from_parts_in(&parts, &Device::Cpu, Precision::F32)
}

#[test]
fn phones_of_a_second_listener_that_nobody_can_use_are_refused() {
    let refused = |change: &dyn Fn(&mut serde_json::Value)| reconfigured(change).unwrap_err().to_string();
    let nameless = refused(&|config| drop(config.as_object_mut().unwrap().remove("phones")));
    assert!(
        nameless.contains("second_listener.phone_head: expected the names of its phones"),
        "{nameless}"
    );
    let headless = refused(&|config| {
        drop(
            config["second_listener"]
                .as_object_mut()
                .unwrap()
                .remove("phone_head"),
        )
    });
    assert!(
        headless.contains("a phone head in its second listener"),
        "{headless}"
    );
    let wrong = refused(&|config| {
        let head = &mut config["second_listener"]["phone_head"];
        head["weight"] = (-1.0).into();
        head["hidden_dim"] = 0.into();
    });
    assert!(
        wrong.contains("phone_head.weight: expected 0 to 10, found -1")
            && wrong.contains("phone_head.hidden_dim: expected 1 to 65536, found 0"),
        "{wrong}"
    );
    let wider = refused(&|config| config["second_listener"]["phone_head"]["order"] = 5.into());
    assert!(
        wider.contains("phone_head.layers.0.memory.weight: expected shape [512, 1, 11]"),
        "{wider}"
    );
}

#[test]
fn what_is_done_in_its_pauses_changes_no_judgement() {
    let model = Model::load(&directory()).unwrap();
    let listener = model.second_listener().unwrap();
    let steps = heard(&model);
    let undisturbed = finals(&model, &steps, model.default_decoding());
    let frames: Vec<f32> = steps.iter().flat_map(|(_, features)| features).copied().collect();
    let texts = ["one two three".to_string(), "four".into()];
    let expected = listener.judge(&frames, &texts);
    let count = Rc::new(Cell::new(0));
    let in_pauses = {
        let (listener, count) = (Arc::clone(listener), Rc::clone(&count));
        let (frames, texts) = (frames.clone(), texts.clone());
        move || {
            count.set(count.get() + 1);
            // Seldom: it takes as long as all of the rest.
            if count.get() % 50 == 1 {
                assert_eq!(listener.judge(&frames, &texts), expected);
            }
        }
    };
    let disturbed = pauses::working(in_pauses, || finals(&model, &steps, model.default_decoding()));
    assert_eq!(disturbed, undisturbed);
    assert!(count.get() > 100, "{} pauses", count.get());
}

#[test]
fn words_are_stable_behind_the_judgement_and_sooner_without_it() {
    let model = Model::load(&directory()).unwrap();
    let steps = heard(&model);
    let judged = model.default_decoding();
    let unjudged = Decoding {
        rescoring_weight: 0.0,
        ..judged
    };
    let mut first_stable = Vec::new();
    for decoding in [judged, unjudged] {
        let options = TranscriberOptions {
            decoding,
            ..TranscriberOptions::default()
        };
        let mut transcriber = model.transcriber(options);
        let (mut finals, mut partials) = (Vec::new(), Vec::new());
        for (log_probs, features) in &steps {
            transcriber.accept_heard(log_probs, features, &mut finals);
            partials.extend(transcriber.partial());
        }
        finals.extend(transcriber.finish());
        for partial in &partials {
            let last = &finals[usize::try_from(partial.utterance).unwrap()];
            assert_eq!(
                partial.words[..partial.stable_words],
                last.words[..partial.stable_words]
            );
        }
        first_stable.push(partials.iter().position(|partial| partial.stable_words > 0));
    }
    assert!(
        first_stable[0] > first_stable[1] && first_stable[1].is_some(),
        "{first_stable:?}"
    );
}

#[test]
fn a_second_listener_without_its_vocabulary_or_a_head_is_refused() {
    let read = |name: &str| std::fs::read(directory().join(name)).unwrap();
    let (config, tokens, weights) = (read("config.json"), read("tokens.txt"), read("model.safetensors"));
    let parts = Parts {
        config_json: std::str::from_utf8(&config).unwrap(),
        tokens_txt: std::str::from_utf8(&tokens).unwrap(),
        text_tokens_txt: None,
        pronunciations: None,
        safetensors: &weights,
    };
    let load = |parts: &Parts<'_>| Model::from_parts_in(parts, &Device::Cpu, Precision::F32);
    let error = load(&parts).unwrap_err().to_string();
    assert!(
        error.contains(TEXT_TOKENS_FILE) && error.contains("missing"),
        "{error}"
    );
    let headless = parts
        .config_json
        .replace("\"ctc\": {\n    \"blank\": 0\n  },", "");
    assert_ne!(headless, parts.config_json);
    let parts = Parts {
        config_json: &headless,
        text_tokens_txt: Some("a"),
        pronunciations: None,
        ..parts
    };
    let error = load(&parts).unwrap_err().to_string();
    assert!(
        error.contains("second_listener: expected an encoder with a CTC head"),
        "{error}"
    );
}
