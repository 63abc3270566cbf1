//! Noise is not always wordless: a model whose utterances end in the warm-up's own audio is measured and served like any other.

use super::judgements::{Judged, Scorer, judged_decoding};
use super::*;

#[test]
fn an_utterance_that_ends_in_the_noise_keeps_no_server_from_starting() {
    let scorer = Arc::new(Scorer::default());
    let model = Judged {
        fake: Fake::short_spoken(),
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
