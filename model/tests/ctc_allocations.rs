//! Listening to silence costs no memory: counted, not believed. Alone in its file, because the counter is global.

use std::sync::Arc;

use waxwing_model::tokens::Tokens;
use waxwing_model::transcript::{Transcriber, TranscriberOptions};

#[path = "support/counting.rs"]
mod counting;

use self::counting::allocations;

#[test]
fn frames_without_a_new_word_allocate_nothing() {
    let tokens = Arc::new(Tokens::parse("<blank>\n▁\na\n").expect("well-formed"));
    let mut transcriber = Transcriber::new(tokens, 0.04, TranscriberOptions::default());
    let blank = [-0.01f32, -9.0, -9.0].repeat(1000);
    let separators = [-0.01f32, -9.0, -9.0, -9.0, -0.01, -9.0].repeat(500);
    let mut finals = Vec::new();
    transcriber.accept(&separators, &mut finals);

    let before = allocations();
    transcriber.accept(&blank, &mut finals);
    transcriber.accept(&separators, &mut finals);
    let after = allocations();
    assert!(before > 0, "the counter counts");
    assert_eq!(after - before, 0);

    transcriber.accept(&[-9.0, -9.0, -0.01], &mut finals);
    assert!(transcriber.partial().is_some());
    assert!(allocations() > after, "a word does take memory");
}
