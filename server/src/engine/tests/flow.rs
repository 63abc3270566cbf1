//! The way of audio and events: flush, stop, order, room, drain.

use super::*;

fn burst(milliseconds: usize) -> Vec<u8> {
    let samples = (0..milliseconds * 16).map(|index: usize| if index % 7 < 3 { 9_000_i16 } else { -9_000 });
    samples.flat_map(i16::to_le_bytes).collect()
}

fn silence(milliseconds: usize) -> Vec<u8> {
    vec![0; milliseconds * 32]
}

#[tokio::test]
async fn the_last_and_the_first_word_are_heard() {
    let (_engine, stream) = begin();
    send(&stream, &silence(1_000));
    send(&stream, &burst(60));
    flush(&stream, "1");
    send(&stream, &burst(60));
    stop(&stream);
    let events = rest(&stream).await;
    let said = finals(&events);
    assert_eq!(said.len(), 2, "{events:?}");
    // The word before the flush ends with the audio before it; the one after it begins there.
    assert!(said[0].start >= 0.95 && said[0].end <= 1.06 + 1e-9, "{said:?}");
    assert!(said[1].start >= 1.06 - 0.03 && said[1].start < 1.12, "{said:?}");
    assert!(said[1].end <= 1.12 + 1e-9, "{said:?}");
}

#[tokio::test]
async fn a_flush_without_new_audio_is_answered_without_a_step() {
    let (engine, stream) = begin();
    flush(&stream, "empty");
    let id = Some("empty".to_string());
    assert_eq!(soon(stream.next_event()).await, Some(Event::Flushed { id }));
    assert_eq!(engine.counters().steps.load(Relaxed), 0);
    send(&stream, &burst(300));
    flush(&stream, "a");
    while !matches!(soon(stream.next_event()).await, Some(Event::Flushed { .. })) {}
    let steps = engine.counters().steps.load(Relaxed);
    flush(&stream, "b");
    let id = Some("b".to_string());
    assert_eq!(soon(stream.next_event()).await, Some(Event::Flushed { id }));
    assert_eq!(engine.counters().steps.load(Relaxed), steps);
    drop(stream);
    all_free(&engine).await;
}

#[tokio::test]
async fn a_stream_takes_nothing_after_its_stop() {
    let (engine, stream) = begin();
    stop(&stream);
    assert_eq!(stream.send(Input::Stop), Err(Closed));
    let events = rest(&stream).await;
    let expected = [Event::Done {
        audio_seconds: 0.0,
        utterances: 0,
    }];
    assert_eq!(events, expected);
    assert_eq!(soon(stream.next_event()).await, None);
    all_free(&engine).await;
}

#[tokio::test]
async fn every_step_says_how_far_it_has_heard_also_in_silence() {
    let (engine, stream) = begin();
    let (mut sent, mut heard, mut words) = (0.0, -1.0, 0);
    for step in 0..40 {
        let loud = (12..16).contains(&step);
        send(&stream, &if loud { burst(80) } else { silence(80) });
        sent += 0.08;
        // A step is due as soon as its segment of 80 ms, the look-ahead of 40 ms and a window's last 15 ms are there.
        let due = ((sent - 0.055_f64) / 0.08).floor().max(0.0) * 0.08;
        while heard < due - 1e-6 && due > 0.0 {
            match soon(stream.next_event()).await {
                Some(Event::Partial(partial)) => {
                    assert!(partial.audio_processed > heard, "{partial:?} after {heard}");
                    heard = partial.audio_processed;
                    words += partial.words.len();
                    // Behind the pause that ends the utterance nothing is open.
                    assert_eq!(partial.text.is_empty(), partial.words.is_empty());
                }
                Some(Event::Final(utterance)) => {
                    assert!(utterance.audio_processed >= heard, "{utterance:?}");
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(words > 0);
    stop(&stream);
    while soon(stream.next_event()).await.is_some() {}
    let counters = engine.counters();
    assert_eq!(counters.partials.load(Relaxed), counters.rows.load(Relaxed));
}

#[tokio::test]
async fn audio_that_ends_inside_a_sample_is_named() {
    let (_engine, stream) = begin();
    send(&stream, &silence(500)[1..]);
    stop(&stream);
    let events = rest(&stream).await;
    let [.., Event::Warning { code, .. }, Event::Done { audio_seconds, .. }] = events.as_slice() else {
        panic!("{events:?}")
    };
    assert_eq!((*code, *audio_seconds), ("odd_audio_length", 7_999.0 / 16_000.0));
}

#[tokio::test]
async fn unread_partials_coalesce_and_finals_do_not() {
    let engine = start(&Fake::new(), options(1));
    let audio = speech(5, 8.0);
    let expected = alone(&engine, &audio).await;
    let stream = engine.open(&request()).unwrap();
    for chunk in audio.chunks(2_560) {
        send(&stream, chunk);
    }
    stop(&stream);
    // Nothing is read until everything is said.
    soon(async {
        while !stream.shared.has_ended() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(stream.unread_for() > Duration::ZERO);
    let events = rest(&stream).await;
    let partials = events
        .iter()
        .filter(|event| matches!(event, Event::Partial(_)))
        .count();
    assert!(partials <= 1, "{partials}");
    assert_eq!(finals(&events), expected);
    assert!(engine.counters().partials_coalesced.load(Relaxed) > 0);
    assert_eq!(stream.unread_for(), Duration::ZERO);
}

#[tokio::test]
async fn a_full_backlog_holds_the_writer_until_there_is_room() {
    let model = Fake::new();
    let backlog = Duration::from_secs(1);
    let engine = start(
        &model,
        EngineOptions {
            backlog,
            ..options(1)
        },
    );
    let gate = model.gate();
    let stream = engine.open(&request()).unwrap();
    soon(stream.writable()).await;
    send(&stream, &speech(1, 3.0));
    assert_eq!(gate.begun.recv().unwrap(), 1);
    assert!(stream.backlog_seconds() > 2.5);
    let held = tokio::select! {
        biased;
        () = stream.writable() => false,
        () = std::future::ready(()) => true,
    };
    assert!(held, "the writer was let through over a full backlog");
    gate.go_on.send(()).unwrap();
    soon(stream.writable()).await;
    assert!(stream.backlog_seconds() < 1.0);
    stop(&stream);
    rest(&stream).await;
}

#[tokio::test]
async fn who_sends_an_hour_at_once_yields_to_a_microphone() {
    let model = Fake::new();
    let engine = start(
        &model,
        EngineOptions {
            // All of the hour may wait.
            backlog: Duration::from_secs(3_600),
            ..batching(1, 1)
        },
    );
    let first = model.gate();
    for _ in 0..60 {
        model.then(Fault::None);
    }
    let last = model.gate();
    let greedy = engine.open(&request()).unwrap();
    let microphone = engine.open(&request()).unwrap();
    let audio = speech(9, 60.0);
    for _ in 0..60 {
        send(&greedy, &audio);
    }
    stop(&greedy);
    first.begun.recv().unwrap();
    send(&microphone, &speech(2, 0.8));
    stop(&microphone);
    first.go_on.send(()).unwrap();
    // The engine stands still at its 62nd step; the hour is far from over, the microphone has all its words.
    last.begun.recv().unwrap();
    assert!(matches!(rest(&microphone).await.last(), Some(Event::Done { .. })));
    assert!(greedy.backlog_seconds() > 3_500.0);
    drop(greedy);
    last.go_on.send(()).unwrap();
    all_free(&engine).await;
}

#[tokio::test]
async fn files_wait_for_speech_and_are_heard_alike() {
    let model = Fake::new();
    let engine = start(&model, batching(1, 1));
    let audio = speech(4, 4.0);
    let expected = alone(&engine, &audio).await;
    let samples: Vec<f32> = audio
        .chunks_exact(2)
        .map(|pair| f32::from(i16::from_le_bytes([pair[0], pair[1]])) / 32_768.0)
        .collect();
    let first = model.gate();
    for _ in 0..25 {
        model.then(Fault::None);
    }
    let last = model.gate();
    let file = engine
        .open(&StreamRequest {
            class: Class::File,
            format: AudioFormat::Samples,
            partials: false,
            ..request()
        })
        .unwrap();
    file.send(Input::Samples(samples)).unwrap();
    stop(&file);
    first.begun.recv().unwrap();
    let live = engine.open(&request()).unwrap();
    send(&live, &speech(2, 0.8));
    stop(&live);
    first.go_on.send(()).unwrap();
    last.begun.recv().unwrap();
    assert!(matches!(rest(&live).await.last(), Some(Event::Done { .. })));
    last.go_on.send(()).unwrap();
    assert_eq!(finals(&rest(&file).await), expected);
    all_free(&engine).await;
}

#[tokio::test]
async fn rows_that_wait_together_are_stepped_together() {
    let model = Fake::new();
    let engine = start(&model, batching(8, 1));
    let streams: Vec<_> = (0..4).map(|_| engine.open(&request()).unwrap()).collect();
    let first = model.gate();
    let second = model.gate();
    send(&streams[0], &speech(0, 0.2));
    assert_eq!(first.begun.recv().unwrap(), 1);
    for stream in &streams[1..] {
        send(stream, &speech(1, 0.2));
    }
    first.go_on.send(()).unwrap();
    let together = second.begun.recv().unwrap();
    assert!(together >= 3, "{together}");
    second.go_on.send(()).unwrap();
    drop(streams);
    all_free(&engine).await;
}

#[tokio::test]
async fn models_are_stepped_apart() {
    let models = [Fake::named("one"), Fake::named("two")];
    let all = models
        .iter()
        .map(|model| Arc::clone(model) as Arc<dyn StepModel>)
        .collect();
    let engine = Engine::start(all, options(2)).unwrap();
    let audio = speech(3, 2.0);
    let mut transcripts = Vec::new();
    for id in [None, Some("one"), Some("two")] {
        let model = id.map(str::to_owned);
        let stream = engine.open(&StreamRequest { model, ..request() }).unwrap();
        assert_eq!(stream.model_id(), id.unwrap_or("one"));
        send(&stream, &audio);
        stop(&stream);
        transcripts.push(finals(&rest(&stream).await));
    }
    assert!(!transcripts[0].is_empty());
    assert!(transcripts.windows(2).all(|pair| pair[0] == pair[1]));
    let unknown = StreamRequest {
        model: Some("three".into()),
        ..request()
    };
    assert!(matches!(engine.open(&unknown), Err(OpenError::UnknownModel(_))));
    all_free(&engine).await;
}

#[tokio::test]
async fn a_full_engine_refuses_and_takes_again() {
    let engine = start(
        &Fake::new(),
        EngineOptions {
            slots: Some(2),
            ..options(1)
        },
    );
    let slots = engine.status().slots;
    assert!((1..=2).contains(&slots));
    let mut streams: Vec<_> = (0..slots).map(|_| engine.open(&request()).unwrap()).collect();
    assert_eq!(engine.status().free, 0);
    let Err(OpenError::Refused(refusal)) = engine.open(&request()) else {
        panic!("admitted beyond the slots");
    };
    assert_eq!(refusal.code, ErrorCode::ServerFull);
    assert!(refusal.retry_after > Duration::ZERO);
    streams.pop();
    assert!(engine.open(&request()).is_ok());
}

#[tokio::test]
async fn bad_requests_take_no_slot() {
    let engine = start(&Fake::new(), options(1));
    let slow = StreamRequest {
        input_rate_hz: 100,
        ..request()
    };
    assert!(matches!(engine.open(&slow), Err(OpenError::Audio(_))));
    all_free(&engine).await;
}

#[tokio::test]
async fn a_draining_engine_gives_last_words_and_takes_nobody() {
    let model = Fake::new();
    let engine = start(&model, options(2));
    let audio = speech(6, 2.0);
    let expected = alone(&engine, &audio).await;
    let streams: Vec<_> = (0..4).map(|_| engine.open(&request()).unwrap()).collect();
    for stream in &streams {
        send(stream, &audio);
    }
    engine.drain();
    assert_eq!(engine.status().state, EngineState::Draining);
    let Err(OpenError::Refused(refusal)) = engine.open(&request()) else {
        panic!("admitted while draining");
    };
    assert_eq!(refusal.code, ErrorCode::Draining);
    for stream in streams {
        let events = rest(&stream).await;
        assert_eq!(finals(&events), expected);
        assert!(matches!(events.last(), Some(Event::Done { .. })));
    }
    soon(engine.drained()).await;
    all_free(&engine).await;
}

#[tokio::test]
async fn a_wider_search_shows_other_hypotheses_and_may_begin_in_mid_stream() {
    let (engine, stream) = begin();
    let decoding = Decoding {
        beam_width: 8,
        alternatives: 3,
        ..Decoding::default()
    };
    let transcriber = TranscriberOptions {
        decoding,
        ..request().transcriber
    };
    let audio = speech(5, 4.0);
    send(&stream, &audio);
    flush(&stream, "wider");
    let partials = true;
    stream
        .send(Input::Configure {
            partials,
            transcriber,
        })
        .unwrap();
    send(&stream, &audio);
    stop(&stream);
    let events = rest(&stream).await;
    let wider = events
        .iter()
        .position(|event| matches!(event, Event::Flushed { .. }))
        .unwrap();
    let (before, after) = (finals(&events[..wider]), finals(&events[wider..]));
    assert!(!before.is_empty() && before.iter().all(|said| said.alternatives.is_empty()));
    assert!(
        after.iter().any(|said| !said.alternatives.is_empty()),
        "{after:?}"
    );
    for said in after {
        assert!(said.alternatives.len() < 3);
        assert!(said.alternatives.iter().all(|other| other.text != said.text));
    }
    all_free(&engine).await;
}

#[tokio::test]
async fn new_settings_hold_from_where_they_were_sent() {
    let (_engine, stream) = begin();
    stream
        .send(Input::Configure {
            partials: false,
            transcriber: request().transcriber,
        })
        .unwrap();
    send(&stream, &speech(5, 2.0));
    stop(&stream);
    let events = rest(&stream).await;
    assert!(!events.iter().any(|event| matches!(event, Event::Partial(_))));
}
