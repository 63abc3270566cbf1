//! Steps that err, panic, hang or return NaN: who is told what, and that the engine goes on or says that it cannot.

use super::*;

/// A fault ends the sessions of its step with a retryable error; the worker is rebuilt and the slot is as new.
async fn ends_its_sessions_only(fault: Fault) {
    let model = Fake::new();
    let engine = start(&model, options(1));
    let audio = speech(1, 2.0);
    let expected = alone(&engine, &audio).await;
    let bystander = engine.open(&request()).unwrap();
    model.then(Fault::None);
    model.then(fault);
    let stream = engine.open(&request()).unwrap();
    send(&stream, &audio);
    // The fault may have ended it already.
    let _ = stream.send(Input::Stop);
    let events = rest(&stream).await;
    assert_eq!(error_code(&events), Some(ErrorCode::EngineFailed), "{events:?}");
    assert!(ErrorCode::EngineFailed.retryable());
    send(&bystander, &audio);
    stop(&bystander);
    assert_eq!(finals(&rest(&bystander).await), expected);
    assert_eq!(engine.counters().steps_failed.load(Relaxed), 1);
    soon(ready(&engine)).await;
    assert_eq!(alone(&engine, &audio).await, expected);
    assert_eq!(engine.counters().workers_rebuilt.load(Relaxed), 1);
    all_free(&engine).await;
}

async fn ready(engine: &Engine) {
    while engine.status().state != EngineState::Ready {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_step_that_errs_ends_its_sessions_only() {
    ends_its_sessions_only(Fault::Error).await;
}

#[tokio::test]
async fn a_step_that_panics_ends_its_sessions_only() {
    ends_its_sessions_only(Fault::Panic).await;
}

/// Whatever goes wrong in whichever step: what was final before stays, the session ends with the code of the fault, and the next one hears
/// everything.
#[tokio::test]
async fn a_fault_at_any_step_keeps_what_was_final() {
    let audio = speech(1, 3.0);
    for step in [0, 1, 5, 17, 30] {
        for (fault, code) in [
            (Fault::Error, ErrorCode::EngineFailed),
            (Fault::Panic, ErrorCode::EngineFailed),
            (Fault::NonFinite(vec![0]), ErrorCode::NonFinite),
        ] {
            let model = Fake::new();
            let engine = start(&model, options(1));
            let expected = alone(&engine, &audio).await;
            (0..step).for_each(|_| model.then(Fault::None));
            model.then(fault);
            let stream = engine.open(&request()).unwrap();
            send(&stream, &audio);
            // The fault may have ended it already.
            let _ = stream.send(Input::Stop);
            let events = rest(&stream).await;
            assert_eq!(error_code(&events), Some(code), "step {step}: {events:?}");
            assert!(expected.starts_with(&finals(&events)), "step {step}");
            soon(ready(&engine)).await;
            assert_eq!(alone(&engine, &audio).await, expected);
            all_free(&engine).await;
        }
    }
}

/// Three streams whose first steps are one batch; returns their events.
async fn batch_of_three(engine: &Engine, model: &Fake, fault: Fault, audio: &[u8]) -> Vec<Vec<Event>> {
    let opener = engine.open(&request()).unwrap();
    let gate = model.gate();
    model.then(fault);
    send(&opener, &speech(8, 0.16));
    gate.begun.recv().unwrap();
    let streams: Vec<_> = (0..3).map(|_| engine.open(&request()).unwrap()).collect();
    for stream in &streams {
        send(stream, audio);
        stop(stream);
    }
    drop(opener);
    gate.go_on.send(()).unwrap();
    let mut events = Vec::new();
    for stream in &streams {
        events.push(rest(stream).await);
    }
    events
}

#[tokio::test]
async fn one_row_that_is_not_finite_ends_one_session() {
    let model = Fake::new();
    let engine = start(&model, batching(8, 1));
    let audio = speech(1, 1.0);
    let expected = alone(&engine, &audio).await;
    let events = batch_of_three(&engine, &model, Fault::NonFinite(vec![1]), &audio).await;
    assert_eq!(finals(&events[0]), expected);
    assert_eq!(error_code(&events[1]), Some(ErrorCode::NonFinite));
    assert_eq!(finals(&events[2]), expected);
    assert_eq!(engine.counters().workers_rebuilt.load(Relaxed), 0);
    // I4: the state full of NaN is as new for the next owner.
    for _ in 0..4 {
        assert_eq!(alone(&engine, &audio).await, expected);
    }
    all_free(&engine).await;
}

#[tokio::test]
async fn two_rows_that_are_not_finite_end_the_worker() {
    let model = Fake::new();
    let engine = start(&model, batching(8, 1));
    let audio = speech(1, 1.0);
    let expected = alone(&engine, &audio).await;
    let events = batch_of_three(&engine, &model, Fault::NonFinite(vec![0, 2]), &audio).await;
    assert_eq!(error_code(&events[0]), Some(ErrorCode::NonFinite));
    assert_eq!(finals(&events[1]), expected);
    assert_eq!(error_code(&events[2]), Some(ErrorCode::NonFinite));
    soon(ready(&engine)).await;
    assert_eq!(engine.counters().workers_rebuilt.load(Relaxed), 1);
    assert_eq!(alone(&engine, &audio).await, expected);
    all_free(&engine).await;
}

/// Whichever step hangs: all sessions are told, what was final before stays, and nobody is let in any more.
#[tokio::test]
async fn a_step_that_hangs_ends_everything_and_says_so() {
    let audio = speech(1, 3.0);
    for step in [0, 1, 5, 17, 30] {
        let model = Fake::new();
        let hang_after = Duration::from_millis(100);
        let engine = start(
            &model,
            EngineOptions {
                hang_after,
                ..options(2)
            },
        );
        let expected = alone(&engine, &audio).await;
        let hung = engine.open(&request()).unwrap();
        let silent = engine.open(&request()).unwrap();
        (0..step).for_each(|_| model.then(Fault::None));
        let gate = model.gate();
        send(&hung, &audio);
        gate.begun.recv().unwrap();
        soon(engine.failed()).await;
        assert_eq!(engine.status().state, EngineState::Failed, "step {step}");
        let events = rest(&hung).await;
        assert_eq!(
            error_code(&events),
            Some(ErrorCode::EngineFailed),
            "step {step}: {events:?}"
        );
        assert!(expected.starts_with(&finals(&events)), "step {step}");
        assert_eq!(
            error_code(&rest(&silent).await),
            Some(ErrorCode::EngineFailed),
            "step {step}"
        );
        let Err(OpenError::Refused(refusal)) = engine.open(&request()) else {
            panic!("a dead engine took a stream");
        };
        assert_eq!(refusal.code, ErrorCode::EngineFailed);
        // What comes back from the dead is nobody's.
        gate.go_on.send(()).unwrap();
        all_free(&engine).await;
        assert_eq!(soon(hung.next_event()).await, None);
    }
}

#[tokio::test]
async fn a_panic_outside_the_step_ends_its_session_only() {
    let model = Fake::new();
    let engine = start(&model, options(1));
    let audio = speech(1, 1.0);
    let expected = alone(&engine, &audio).await;
    let stream = engine.open(&request()).unwrap();
    let gate = model.gate();
    send(&stream, &audio);
    gate.begun.recv().unwrap();
    // The first look at the geometry after the step is the transcriber's side of the worker.
    model.panic_outside.store(true, Relaxed);
    gate.go_on.send(()).unwrap();
    let events = rest(&stream).await;
    assert!(
        matches!(
            error_code(&events),
            Some(ErrorCode::Internal | ErrorCode::EngineFailed)
        ),
        "{events:?}"
    );
    assert_eq!(alone(&engine, &audio).await, expected);
    all_free(&engine).await;
}

#[tokio::test]
async fn a_client_that_leaves_in_mid_step_frees_its_slot_once() {
    let model = Fake::new();
    let engine = start(&model, options(1));
    let gate = model.gate();
    let stream = engine.open(&request()).unwrap();
    send(&stream, &speech(1, 1.0));
    gate.begun.recv().unwrap();
    drop(stream);
    assert_eq!(engine.shared.pool.counts().live, 1);
    gate.go_on.send(()).unwrap();
    all_free(&engine).await;
    assert_eq!(engine.counters().streams_abandoned.load(Relaxed), 1);
}

#[tokio::test]
async fn an_engine_that_is_dropped_ends_its_streams() {
    let (engine, stream) = begin();
    drop(engine);
    assert!(error_code(&rest(&stream).await).is_some());
    assert_eq!(stream.send(Input::Stop), Err(Closed));
}

#[test]
fn a_model_that_fails_its_warm_up_is_not_served() {
    for fault in [Fault::Error, Fault::Panic] {
        let model = Fake::new();
        model.then(fault);
        let error = Engine::start(vec![model], options(2)).unwrap_err().to_string();
        assert!(
            error.starts_with("model `fake`: the warm-up step failed"),
            "{error}"
        );
    }
}
