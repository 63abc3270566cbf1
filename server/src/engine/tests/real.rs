//! The promises I1 and I3 with a real encoder: a tiny whisper-emformer with random weights, the same in every run.

use proptest::prelude::*;
use waxwing_model::Model;

use super::promises::{block_on, heard_among, heard_in_parts};
use super::weights::{TOKENS, weights};
use super::*;

const DIM: usize = 16;
const FFN: usize = 24;
const LAYERS: usize = 2;
const MELS: usize = 80;

/// Segments of 80 ms, 60 ms of look-ahead, rings of two segments.
fn tiny() -> Arc<dyn StepModel> {
    let config = serde_json::json!({
        "format": 1, "id": "tiny", "architecture": "whisper-emformer", "sample_rate": 16_000,
        "features": {"type": "streaming_log_mel", "num_mels": MELS, "n_fft": 400, "hop": 160, "left_padding": 200, "log_floor": 1e-7},
        "encoder": {
            "input_dim": MELS, "dim": DIM, "num_heads": 2, "ffn_dim": FFN, "num_layers": LAYERS, "segment_length": 4,
            "left_context_length": 8, "right_context_length": 2, "max_memory_size": 0, "activation": "gelu",
            "output_norm": "final", "position_period": 50,
        },
        "ctc": {"blank": 0},
    })
    .to_string();
    let device = waxwing_model::device::Device::Cpu;
    Arc::new(Model::from_parts(&config, TOKENS, &weights(&config), &device).unwrap())
}

fn engine(workers: usize) -> Arc<Engine> {
    Engine::start(vec![tiny()], batching(8, workers)).unwrap()
}

/// The same words at the same times; confidences within the 1e-4 that neighbours in a batch may move a log-prob.
fn assert_alike(left: &[Utterance], right: &[Utterance]) {
    let strip = |utterances: &[Utterance]| -> Vec<(String, Vec<(f64, f64)>)> {
        utterances
            .iter()
            .map(|heard| {
                let times = heard.words.iter().map(|word| (word.start, word.end)).collect();
                (heard.text.clone(), times)
            })
            .collect()
    };
    assert_eq!(strip(left), strip(right));
    for (left, right) in left.iter().zip(right) {
        assert!(
            (left.confidence - right.confidence).abs() < 1e-4,
            "{left:?} {right:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn i1_any_split_gives_the_same_finals_of_a_real_encoder(
        seed in 0_u64..50,
        cuts in prop::collection::vec(1_usize..9_000, 1..60),
    ) {
        let engine = engine(2);
        let audio = speech(seed, 3.0);
        let said = finals(&block_on(heard_in_parts(&engine, &audio, &cuts)));
        prop_assert!(said.iter().map(|utterance| utterance.words.len()).sum::<usize>() > 0, "{said:?}");
        assert_alike(&said, &block_on(alone(&engine, &audio)));
        block_on(all_free(&engine));
    }

    #[test]
    fn i3_neighbours_change_nothing_of_a_real_encoder(
        ages in prop::collection::vec(0_usize..40_000, 1..8),
        workers in 1_usize..3,
    ) {
        let engine = engine(workers);
        let audio = speech(7, 3.0);
        let (mine, theirs) = block_on(heard_among(&engine, &audio, &ages));
        assert_alike(&mine, &block_on(alone(&engine, &audio)));
        for (finals, audio) in theirs {
            assert_alike(&finals, &block_on(alone(&engine, &audio)));
        }
        block_on(all_free(&engine));
    }
}
