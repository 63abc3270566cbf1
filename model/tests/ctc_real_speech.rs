//! Promises of partials on real speech: log-probs of the shipped model on a real voice, with the shipped language model, hotwords, second pass and
//! changes of the settings in mid-stream.

#![expect(clippy::expect_used, reason = "a helper of tests may fail as a test does")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use candle_core::Device;
use proptest::prelude::*;
use waxwing_model::ctc::{Hotword, Hotwords};
use waxwing_model::language_model::LanguageModel;
use waxwing_model::tokens::Tokens;
use waxwing_model::transcript::{Decoding, Endpointing, Transcriber, TranscriberOptions, Utterance};

const FRAME_SECONDS: f64 = 0.02;

struct Speech {
    tokens: Arc<Tokens>,
    language_model: Arc<LanguageModel>,
    log_probs: Vec<f32>,
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn speech() -> &'static Speech {
    static SPEECH: OnceLock<Speech> = OnceLock::new();
    SPEECH.get_or_init(|| {
        let tokens = std::fs::read_to_string(repository("model/pretrained/en-emformer/tokens.txt"));
        let voice = repository("tests/golden/ctc_voice.safetensors");
        let tensors = candle_core::safetensors::load(voice, &Device::Cpu).expect("committed");
        let log_probs = tensors["log_probs"].flatten_all().and_then(|flat| flat.to_vec1());
        let language_model = LanguageModel::load(&repository("model/pretrained/en-ngram/model.bin"));
        Speech {
            tokens: Arc::new(Tokens::parse(&tokens.expect("committed")).expect("well-formed")),
            language_model: Arc::new(language_model.expect("committed")),
            log_probs: log_probs.expect("f32"),
        }
    })
}

fn options() -> impl Strategy<Value = TranscriberOptions> {
    let hotwords = prop::option::of((0..3usize, 0.1f32..3.0));
    let silence = prop_oneof![Just(0u32), 100..600u32];
    (
        1..40usize,
        0..80usize,
        100..2000u32,
        0.0f32..1.0,
        silence,
        1..4usize,
        hotwords,
    )
        .prop_map(
            |(
                beam_width,
                second_pass_width,
                settle_ms,
                language_model_weight,
                silence_ms,
                alternatives,
                expected,
            )| {
                TranscriberOptions {
                    endpointing: Endpointing {
                        silence_ms,
                        ..Endpointing::default()
                    },
                    decoding: Decoding {
                        beam_width,
                        second_pass_width,
                        settle_ms,
                        language_model_weight,
                        alternatives,
                        ..Decoding::default()
                    },
                    language_model: None,
                    hotwords: expected.map(|(which, boost)| {
                        let text = ["john dashwood", "young man", "rather"][which].to_owned();
                        Arc::new(Hotwords::new(&speech().tokens, &[Hotword { text, boost }]).0)
                    }),
                }
            },
        )
}

/// Finals, and the partial behind each part of the frames; settings change where a part has some.
fn listen(
    options: &TranscriberOptions,
    parts: &[(usize, Option<TranscriberOptions>)],
) -> (Vec<Utterance>, Vec<Utterance>) {
    let Speech {
        tokens,
        language_model,
        log_probs,
    } = speech();
    let own = Some(Arc::clone(language_model));
    let mut transcriber =
        Transcriber::with_own_language_model(Arc::clone(tokens), FRAME_SECONDS, options.clone(), own);
    let (mut finals, mut partials) = (Vec::new(), Vec::new());
    let mut rest = log_probs.as_slice();
    for (frames, change) in parts.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (now, later) = rest.split_at((frames * tokens.len()).min(rest.len()));
        rest = later;
        transcriber.accept(now, &mut finals);
        partials.extend(transcriber.partial());
        if let Some(options) = change {
            transcriber.configure(options.clone());
            partials.extend(transcriber.partial());
        }
    }
    finals.extend(transcriber.finish());
    (finals, partials)
}

fn check(finals: &[Utterance], partials: &[Utterance]) -> Result<usize, TestCaseError> {
    let mut promised = 0;
    for partial in partials {
        let stable = &partial.words[..partial.stable_words];
        if stable.is_empty() {
            continue;
        }
        let last = finals.iter().find(|last| last.utterance == partial.utterance);
        let words = last.map(|last| last.words.as_slice()).unwrap_or_default();
        prop_assert!(words.len() >= stable.len(), "{stable:?} in {words:?}");
        prop_assert_eq!(stable, &words[..stable.len()]);
        promised += stable.len();
    }
    let words = finals.iter().flat_map(|last| &last.words);
    let mut time = 0;
    for word in words {
        prop_assert!(word.start >= time && word.end > word.start, "{finals:?}");
        time = word.end;
    }
    Ok(promised)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn finals_begin_with_what_was_stable(
        options in options(),
        parts in prop::collection::vec((1..40usize, prop::option::weighted(0.1, options())), 1..30),
    ) {
        let (finals, partials) = listen(&options, &parts);
        check(&finals, &partials)?;
    }

    #[test]
    fn a_split_changes_nothing(options in options(), parts in prop::collection::vec((1..40usize, Just(None)), 1..30)) {
        let (in_parts, _) = listen(&options, &parts);
        let (at_once, _) = listen(&options, &[(usize::MAX / 1000, None)]);
        prop_assert_eq!(in_parts, at_once);
    }
}

#[test]
fn a_second_pass_keeps_many_stable_words_and_hears_more_than_none() {
    let narrow = TranscriberOptions {
        decoding: Decoding {
            beam_width: 4,
            settle_ms: 300,
            second_pass_width: 64,
            ..Decoding::default()
        },
        ..TranscriberOptions::default()
    };
    let (finals, partials) = listen(&narrow, &[(4, None)]);
    assert!(
        check(&finals, &partials).expect("promises are kept") > 20,
        "{partials:?}"
    );
    let words: usize = finals.iter().map(|last| last.words.len()).sum();
    assert!(words > 5, "{finals:?}");
}
