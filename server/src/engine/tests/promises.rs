//! The promises I1 and I3 to I9 as laws over the whole engine.

use proptest::prelude::*;

use super::*;

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
        .block_on(future)
}

/// The events of a stream whose audio comes in parts of these sizes, the rest at last.
pub(crate) async fn heard_in_parts(engine: &Engine, audio: &[u8], cuts: &[usize]) -> Vec<Event> {
    let stream = engine.open(&request()).unwrap();
    let mut left = audio;
    for cut in cuts {
        let (head, rest) = left.split_at((*cut).min(left.len()));
        send(&stream, head);
        left = rest;
        tokio::task::yield_now().await;
    }
    send(&stream, left);
    stop(&stream);
    rest(&stream).await
}

/// The finals of a stream among others that have heard so many bytes before it begins, and theirs with their audio.
pub(crate) async fn heard_among(
    engine: &Engine,
    audio: &[u8],
    ages: &[usize],
) -> (Vec<Utterance>, Vec<(Vec<Utterance>, Vec<u8>)>) {
    let neighbours: Vec<_> = ages
        .iter()
        .enumerate()
        .map(|(index, age)| {
            let stream = engine.open(&request()).unwrap();
            let audio = speech(100 + index as u64, 4.0);
            send(&stream, &audio[..*age]);
            (stream, audio, *age)
        })
        .collect();
    let stream = engine.open(&request()).unwrap();
    for (part, chunk) in audio.chunks(5_000).enumerate() {
        send(&stream, chunk);
        for (neighbour, audio, age) in &neighbours {
            let from = (age + part * 5_000).min(audio.len());
            send(neighbour, &audio[from..(from + 5_000).min(audio.len())]);
        }
        tokio::task::yield_now().await;
    }
    stop(&stream);
    let mine = finals(&rest(&stream).await);
    let mut theirs = Vec::new();
    for (neighbour, audio, age) in neighbours {
        let sent = (age + audio.len().min(20 * 5_000)).min(audio.len());
        stop(&neighbour);
        theirs.push((finals(&rest(&neighbour).await), audio[..sent].to_vec()));
    }
    (mine, theirs)
}

#[tokio::test]
async fn the_fake_hears_words_and_its_finals_repeat() {
    let engine = start(&Fake::new(), options(1));
    let audio = speech(1, 6.0);
    let first = alone(&engine, &audio).await;
    assert!(first.len() >= 3, "{first:?}");
    assert_eq!(alone(&engine, &audio).await, first);
}

/// What an open but silent client of the built-in model costs: no rate has tables before its first audio.
#[test]
fn a_silent_client_costs_16_kib_at_most_at_every_rate() {
    let models = crate::catalog::load(&[], &waxwing_model::device::Device::Cpu).unwrap();
    let model = models.first().unwrap();
    let options = EngineOptions {
        decoding: model.default_decoding(),
        ..options(1)
    };
    for rate_hz in [8_000, 16_000, 44_100, 48_000] {
        let bound = SessionBytes::of(model.as_ref(), &options, &microphone(&options, rate_hz)).unwrap();
        assert!(bound.idle <= 16 * 1024, "{rate_hz} Hz: {}", bound.idle);
    }
}

/// A bound that nothing comes near to would promise little: a full backlog and a long utterance fill a good part.
#[tokio::test]
async fn a_busy_session_comes_near_to_its_bound() {
    let model = Fake::new();
    let engine = start(&model, options(1));
    let bound = engine.session_bytes(model.as_ref(), 16_000).unwrap();
    let gate = model.gate();
    let stream = engine.open(&request()).unwrap();
    let audio = speech(1, 8.0);
    while stream.is_writable() {
        send(&stream, &audio);
    }
    gate.begun.recv().unwrap();
    let held = stream.bytes_held();
    assert!(
        held <= bound.most && held * 5 > bound.most,
        "{held} of {}",
        bound.most
    );
    drop(stream);
    gate.go_on.send(()).unwrap();
    all_free(&engine).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// I1, I9: any split of the bytes, also inside a sample, gives the same finals, and every sample is heard.
    #[test]
    fn i1_any_split_gives_the_same_finals(
        seed in 0_u64..50,
        cuts in prop::collection::vec(1_usize..9_000, 1..60),
    ) {
        let engine = start(&Fake::new(), options(2));
        let audio = speech(seed, 3.0);
        let events = block_on(heard_in_parts(&engine, &audio, &cuts));
        let is_done = matches!(
            events.last(),
            Some(Event::Done { audio_seconds, .. }) if (audio_seconds - 3.0).abs() < 1e-9
        );
        prop_assert!(is_done, "{:?}", events.last());
        prop_assert_eq!(engine.counters().samples_decoded.load(Relaxed), 48_000);
        prop_assert_eq!(finals(&events), block_on(alone(&engine, &audio)));
        block_on(all_free(&engine));
    }

    /// I3: neighbours of any number and age change nothing, whoever finds the words of whom.
    #[test]
    fn i3_neighbours_change_nothing(
        ages in prop::collection::vec(0_usize..40_000, 1..8),
        workers in 1_usize..4, steps_at_once in 1_usize..3, words_at_once in 0_usize..4,
    ) {
        let options = EngineOptions { steps_at_once, words_at_once, ..batching(8, workers) };
        let engine = start(&Fake::new(), options);
        let audio = speech(7, 3.0);
        let (mine, theirs) = block_on(heard_among(&engine, &audio, &ages));
        prop_assert_eq!(mine, block_on(alone(&engine, &audio)));
        for (finals, audio) in theirs {
            prop_assert_eq!(finals, block_on(alone(&engine, &audio)));
        }
        block_on(all_free(&engine));
    }

    /// I7: whenever clients leave (before audio, in mid-step, after the end), every slot comes back once.
    #[test]
    fn i7_clients_that_vanish_give_their_slots_back(
        leave_after in prop::collection::vec((0_usize..60_000, any::<bool>(), any::<bool>()), 50),
    ) {
        let slots = 5;
        let engine = start(&Fake::new(), EngineOptions { slots: Some(slots), ..options(2) });
        let audio = speech(3, 2.0);
        let expected = block_on(alone(&engine, &audio));
        block_on(async {
            let mut open = VecDeque::new();
            for (bytes, flushes, reads) in leave_after {
                let capacity = engine.status().slots;
                while open.len() >= capacity {
                    open.pop_front();
                }
                // A slot that a worker still has in its hands is free a moment later.
                let stream = soon(async {
                    loop {
                        match engine.open(&request()) {
                            Ok(stream) => break stream,
                            Err(OpenError::Refused(refusal)) => {
                                assert_eq!(refusal.code, ErrorCode::ServerFull);
                                tokio::task::yield_now().await;
                            }
                            Err(other) => panic!("{other}"),
                        }
                    }
                })
                .await;
                send(&stream, &audio[..bytes.min(audio.len())]);
                if flushes {
                    flush(&stream, "f");
                }
                if reads && flushes {
                    while !matches!(soon(stream.next_event()).await, Some(Event::Flushed { .. })) {}
                }
                open.push_back(stream);
            }
            drop(open);
            all_free(&engine).await;
        });
        // I4: whatever was left in the slots, the next owner hears nothing of it.
        for _ in 0..slots {
            prop_assert_eq!(&block_on(alone(&engine, &audio)), &expected);
        }
    }

    /// I8: whatever clients send, ask for and leave unread, no session ever holds more than the published bound; one
    /// that is open and silent holds less than the bound for that.
    #[test]
    fn i8_bytes_held_stay_within_the_bound(
        rate_hz in prop::sample::select(vec![8_000_u32, 16_000, 48_000]),
        moves in prop::collection::vec((0_usize..200_000, 0_usize..4, any::<bool>()), 1..25),
        seed in 0_u64..20,
        beam_width in prop::sample::select(vec![1_usize, 4, 16]),
        alternatives in 1_usize..4,
    ) {
        let decoding = Decoding { beam_width, alternatives, ..Decoding::default() };
        let engine = start(&Fake::new(), EngineOptions { decoding, ..options(2) });
        let model = Fake::new();
        let bound = engine.session_bytes(model.as_ref(), rate_hz).unwrap();
        let transcriber = TranscriberOptions { decoding, ..request().transcriber };
        let wanted = StreamRequest { input_rate_hz: rate_hz, transcriber, ..request() };
        let audio = speech(seed, 12.0);
        block_on(async {
            let stream = engine.open(&wanted).unwrap();
            let idle = stream.bytes_held();
            assert!(idle <= bound.idle, "{idle} > {}", bound.idle);
            for (bytes, flushes, reads) in moves {
                // Who reads nothing is not read from; then the oldest events have to go.
                while !stream.is_writable() {
                    tokio::select! {
                        biased;
                        () = stream.writable() => {}
                        event = soon(stream.next_event()) => drop(event),
                    }
                }
                // A message is at most 256 KiB.
                send(&stream, &audio[..bytes]);
                for _ in 0..flushes {
                    flush(&stream, &"f".repeat(200));
                }
                let held = stream.bytes_held();
                assert!(held <= bound.most, "{held} > {}", bound.most);
                while reads && stream.unread_for() > Duration::ZERO {
                    stream.next_event().await;
                }
            }
            stop(&stream);
            while let Some(event) = soon(stream.next_event()).await {
                drop(event);
                assert!(stream.bytes_held() <= bound.most);
            }
        });
        prop_assert!(engine.session_bytes_seen() <= bound.most as u64);
        block_on(all_free(&engine));
    }

    /// I9 and the timeline: flushes anywhere lose no audio, are answered in order, and later times do not count the
    /// silence that they insert.
    #[test]
    fn flushes_anywhere_keep_times_within_the_audio(
        parts in prop::collection::vec(0_usize..30_000, 1..12),
        seed in 0_u64..20,
    ) {
        let engine = start(&Fake::new(), options(1));
        let audio = speech(seed, 2.0);
        let sent: usize = parts.iter().map(|&part| part.min(audio.len())).sum();
        let events = block_on(async {
            let stream = engine.open(&request()).unwrap();
            for (index, part) in parts.iter().enumerate() {
                send(&stream, &audio[..(*part).min(audio.len())]);
                flush(&stream, &index.to_string());
            }
            stop(&stream);
            rest(&stream).await
        });
        let flushed: Vec<_> = events
            .iter()
            .filter_map(|event| match event {
                Event::Flushed { id } => id.clone(),
                _ => None,
            })
            .collect();
        let expected: Vec<_> = (0..parts.len()).map(|index| index.to_string()).collect();
        prop_assert_eq!(flushed, expected);
        let seconds = (sent / 2) as f64 / 16_000.0;
        let is_done = matches!(
            events.last(),
            Some(Event::Done { audio_seconds, .. }) if (audio_seconds - seconds).abs() < 1e-9
        );
        prop_assert!(is_done, "{:?} instead of {seconds} s", events.last());
        block_on(all_free(&engine));
    }
}
