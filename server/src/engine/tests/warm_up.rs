//! Noise is not always wordless: a model whose utterances end in the warm-up's own audio is measured and served like any other.

use waxwing_model::transcript::{TextScorer, Transcriber};

use super::judgements::{HEARD, Scorer, judged_decoding};
use super::*;

/// Says a word at the beginning of every segment, and nothing in the rest of it, which is long enough to end the utterance.
struct ShortSpoken {
    geometry: Geometry,
    tokens: Arc<Tokens>,
    scorer: Arc<Scorer>,
}

impl StepModel for ShortSpoken {
    fn id(&self) -> &str {
        "short-spoken"
    }

    fn geometry(&self) -> &Geometry {
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

    fn has_second_listener(&self) -> bool {
        true
    }

    fn transcriber(&self, options: TranscriberOptions) -> Transcriber {
        let scorer = Arc::clone(&self.scorer) as Arc<dyn TextScorer>;
        Transcriber::new(Arc::clone(&self.tokens), self.output_frame_seconds(), options)
            .with_text_scorer(Some(scorer))
    }

    fn max_transcriber_bytes(&self, decoding: &Decoding) -> usize {
        Transcriber::max_state_bytes(&self.tokens, self.output_frame_seconds(), decoding, HEARD)
    }

    fn new_state(&self) -> StateCache {
        StateCache {
            values: Box::default(),
            steps: 0,
        }
    }

    fn reset(&self, state: &mut StateCache) {
        state.steps = 0;
    }

    fn step(&self, rows: &mut [StepRow<'_>]) -> Result<(), StepFailed> {
        for row in rows {
            let needed = self.geometry.frames_needed(row.state.steps) * NUM_FEATURES;
            if row.features.len() != needed {
                return Err(StepFailed(format!(
                    "{needed} values, found {}",
                    row.features.len()
                )));
            }
            row.output.clear();
            for frame in 0..self.geometry.output_frames() {
                let class = usize::from(frame < 3);
                row.output
                    .extend((0..CLASSES).map(|other| if other == class { -0.1 } else { -3.5 }));
            }
            row.state.steps += 1;
        }
        Ok(())
    }
}

#[test]
fn an_utterance_that_ends_in_the_noise_keeps_no_server_from_starting() {
    let scorer = Arc::new(Scorer::default());
    let model = ShortSpoken {
        geometry: Geometry {
            num_features: NUM_FEATURES,
            segment_frames: 160,
            lookahead_frames: 4,
            subsampling: 2,
            output_dim: CLASSES,
        },
        tokens: Arc::new(Tokens::parse("<blank>\n▁a\nb\n▁c\nd\n").unwrap()),
        scorer: Arc::clone(&scorer),
    };
    let options = EngineOptions {
        decoding: judged_decoding(),
        ..options(2)
    };
    let engine = Engine::start(vec![Arc::new(model)], options).unwrap();
    assert_eq!(engine.status().state, EngineState::Ready);
    // It was judged within the warm-up: nobody else has spoken.
    assert!(*scorer.frames.lock().unwrap() > 0);
}
