//! Listening to silence costs no memory: counted, not believed. Alone in its file, because the counter is global.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use waxwing_model::tokens::Tokens;
use waxwing_model::transcript::{Transcriber, TranscriberOptions};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: hands every call to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn frames_without_a_new_word_allocate_nothing() {
    let tokens = Arc::new(Tokens::parse("<blank>\n▁\na\n").expect("well-formed"));
    let mut transcriber = Transcriber::new(tokens, 0.04, TranscriberOptions::default());
    let blank = [-0.01f32, -9.0, -9.0].repeat(1000);
    let separators = [-0.01f32, -9.0, -9.0, -9.0, -0.01, -9.0].repeat(500);
    let mut finals = Vec::new();
    transcriber.accept(&separators, &mut finals);

    let before = ALLOCATIONS.load(Ordering::Relaxed);
    transcriber.accept(&blank, &mut finals);
    transcriber.accept(&separators, &mut finals);
    let after = ALLOCATIONS.load(Ordering::Relaxed);
    assert!(before > 0, "the counter counts");
    assert_eq!(after - before, 0);

    transcriber.accept(&[-9.0, -9.0, -0.01], &mut finals);
    assert!(transcriber.partial().is_some());
    assert!(
        ALLOCATIONS.load(Ordering::Relaxed) > after,
        "a word does take memory"
    );
}
