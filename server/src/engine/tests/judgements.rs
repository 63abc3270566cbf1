//! Judgements are jobs of their own: nobody else waits for them, what is said is the same, and one that fails ends its session only.

use waxwing_model::pauses::pause;
use waxwing_model::transcript::{Hears, Judgement, TextScorer, Transcriber};

use super::*;

/// Output frame of [`Fake`]: two feature frames.
const HEARD: usize = 2 * NUM_FEATURES;

/// What a scorer says of so many texts.
type Says = fn(usize) -> Judgement;

/// Thinks the more of a text the fewer letters `a` it has; its judgements can be told to fail, to wait, or what to be. Each has one pause, with a fault before and one behind it.
#[derive(Default)]
pub(super) struct Scorer {
    faults: Mutex<VecDeque<Fault>>,
    says: Mutex<Option<Says>>,
    /// Frames that it has heard in all judgements.
    pub(super) frames: Mutex<usize>,
}

impl Scorer {
    fn then(&self, fault: Fault) {
        self.faults.lock().unwrap().push_back(fault);
    }

    fn say(&self, says: Says) {
        *self.says.lock().unwrap() = Some(says);
    }

    fn fault(&self, texts: usize) {
        // Not under the lock: what panics would poison it.
        let fault = self.faults.lock().unwrap().pop_front();
        match fault {
            Some(Fault::Panic) => panic!("asked to panic"),
            Some(Fault::Gate(begun, go_on)) => {
                // A test that is over has dropped its ends.
                let _ = begun.send(texts);
                let _ = go_on.recv();
            }
            _ => {}
        }
    }

    fn gate(&self) -> Gate {
        let (say, begun) = channel();
        let (go_on, wait) = channel();
        self.then(Fault::Gate(say, wait));
        Gate { begun, go_on }
    }
}

impl TextScorer for Scorer {
    fn hears(&self) -> Hears {
        Hears::Features(HEARD)
    }

    fn judge(&self, frames: &[f32], texts: &[String]) -> Judgement {
        assert_eq!(frames.len() % HEARD, 0);
        *self.frames.lock().unwrap() += frames.len() / HEARD;
        self.fault(texts.len());
        pause();
        self.fault(texts.len());
        let says = *self.says.lock().unwrap();
        if let Some(says) = says {
            return says(texts.len());
        }
        let likes = |text: &String| -(text.matches('a').count() as f64);
        Judgement {
            log_probs: texts.iter().map(|text| Some(likes(text))).collect(),
            found: vec![("c".into(), f64::NAN), ("nobody can spell this".into(), 0.0)],
        }
    }
}

/// [`Fake`] with a second listener.
pub(super) struct Judged {
    pub(super) fake: Arc<Fake>,
    pub(super) scorer: Arc<Scorer>,
}

impl StepModel for Judged {
    fn id(&self) -> &str {
        self.fake.id()
    }

    fn geometry(&self) -> &Geometry {
        self.fake.geometry()
    }

    fn features(&self) -> FeatureConfig {
        self.fake.features()
    }

    fn sample_rate_hz(&self) -> u32 {
        self.fake.sample_rate_hz()
    }

    fn tokens(&self) -> &Arc<Tokens> {
        self.fake.tokens()
    }

    fn output_frame_seconds(&self) -> f64 {
        self.fake.output_frame_seconds()
    }

    fn text_scorer_hears(&self) -> Option<Hears> {
        Some(self.scorer.hears())
    }

    fn transcriber(&self, options: TranscriberOptions) -> Transcriber {
        let scorer = Arc::clone(&self.scorer) as Arc<dyn TextScorer>;
        self.fake.transcriber(options).with_text_scorer(Some(scorer))
    }

    fn max_transcriber_bytes(&self, decoding: &Decoding) -> usize {
        Transcriber::max_state_bytes(self.tokens(), self.output_frame_seconds(), decoding, HEARD)
    }

    fn new_state(&self) -> StateCache {
        self.fake.new_state()
    }

    fn reset(&self, state: &mut StateCache) {
        self.fake.reset(state);
    }

    fn step(&self, rows: &mut [StepRow<'_>]) -> Result<(), StepFailed> {
        self.fake.step(rows)
    }
}

fn judged(workers: usize) -> (Arc<Engine>, Arc<Scorer>) {
    judged_with(options(workers))
}

fn judged_with(options: EngineOptions) -> (Arc<Engine>, Arc<Scorer>) {
    let scorer = Arc::new(Scorer::default());
    let model = Judged {
        fake: Fake::new(),
        scorer: Arc::clone(&scorer),
    };
    let engine = Engine::start(vec![Arc::new(model)], options).unwrap();
    (engine, scorer)
}

/// A search whose utterances are judged.
pub(super) fn judged_decoding() -> Decoding {
    Decoding {
        beam_width: 4,
        second_pass_width: 16,
        rescoring_weight: 1.0,
        ..Decoding::default()
    }
}

fn judging() -> StreamRequest {
    let mut request = request();
    request.transcriber.decoding = judged_decoding();
    request
}

/// Events of a stream that hears this audio and nothing else.
async fn heard(engine: &Engine, request: &StreamRequest, audio: &[u8]) -> Vec<Event> {
    let stream = engine.open(request).unwrap();
    for part in audio.chunks(2_000) {
        send(&stream, part);
    }
    stop(&stream);
    rest(&stream).await
}

#[tokio::test]
async fn finals_are_those_of_a_transcriber_that_waits_for_nobody() {
    let (engine, scorer) = judged(2);
    for seed in 1..6 {
        let audio = speech(seed, 4.0);
        let by_the_engine = finals(&heard(&engine, &judging(), &audio).await);
        assert!(!by_the_engine.is_empty());
        // A file of one piece.
        let stream = engine
            .open(&StreamRequest {
                class: Class::File,
                ..judging()
            })
            .unwrap();
        send(&stream, &audio);
        stop(&stream);
        assert_eq!(finals(&rest(&stream).await), by_the_engine);
        let unjudged = finals(&heard(&engine, &request(), &audio).await);
        assert!(!unjudged.is_empty());
    }
    assert!(*scorer.frames.lock().unwrap() > 100);
    assert!(
        engine
            .counters()
            .judgement_time
            .snapshot()
            .buckets
            .iter()
            .sum::<u64>()
            > 10
    );
    all_free(&engine).await;
}

#[tokio::test]
async fn others_are_stepped_while_an_utterance_is_judged() {
    let (engine, scorer) = judged(2);
    let audio = speech(1, 3.0);
    let expected = finals(&heard(&engine, &judging(), &audio).await);
    let gate = scorer.gate();
    let waiting = engine.open(&judging()).unwrap();
    send(&waiting, &audio);
    stop(&waiting);
    gate.begun.recv().unwrap();
    // The listener has the words of the first pass meanwhile.
    let shown = soon(async {
        loop {
            match waiting.next_event().await {
                Some(Event::Partial(partial)) if !partial.words.is_empty() => return partial,
                Some(Event::Partial(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    })
    .await;
    assert_eq!(shown.utterance, 0);
    let unjudged = request();
    assert!(!finals(&heard(&engine, &unjudged, &audio).await).is_empty());
    gate.go_on.send(()).unwrap();
    let mut events = vec![Event::Partial(shown)];
    events.extend(rest(&waiting).await);
    assert_eq!(finals(&events), expected);
    all_free(&engine).await;
}

/// An engine with one worker, which is in the first half of a judgement that is due in an hour; the two halves' gates.
struct Occupied {
    engine: Arc<Engine>,
    fake: Arc<Fake>,
    judged: Stream,
    halves: [Gate; 2],
    /// What will be said in the end.
    expected: Vec<Utterance>,
}

async fn occupied(audio: &[u8], options: EngineOptions) -> Occupied {
    let (fake, scorer) = (Fake::new(), Arc::new(Scorer::default()));
    let model = Judged {
        fake: Arc::clone(&fake),
        scorer: Arc::clone(&scorer),
    };
    let hour = EngineOptions {
        file_patience: Duration::from_secs(3_600),
        ..options
    };
    let engine = Engine::start(vec![Arc::new(model)], hour).unwrap();
    let expected = finals(&heard(&engine, &judging(), audio).await);
    let halves = [scorer.gate(), scorer.gate()];
    let file = StreamRequest {
        class: Class::File,
        ..judging()
    };
    let judged = engine.open(&file).unwrap();
    send(&judged, audio);
    stop(&judged);
    halves[0].begun.recv().unwrap();
    Occupied {
        engine,
        fake,
        judged,
        halves,
        expected,
    }
}

#[tokio::test]
async fn segments_that_are_due_before_a_judgement_go_first_in_its_pauses() {
    let audio = speech(1, 3.0);
    let occupied = occupied(&audio, options(1)).await;
    let [first, second] = &occupied.halves;
    let live = occupied.engine.open(&request()).unwrap();
    send(&live, &audio);
    stop(&live);
    first.go_on.send(()).unwrap();
    // All of it, with the only worker in the middle of the judgement.
    let events = rest(&live).await;
    second.begun.recv().unwrap();
    second.go_on.send(()).unwrap();
    assert_eq!(finals(&rest(&occupied.judged).await), occupied.expected);
    let alone = heard(&occupied.engine, &request(), &audio).await;
    assert!(!finals(&alone).is_empty());
    assert_eq!(finals(&events), finals(&alone));
    all_free(&occupied.engine).await;
}

#[tokio::test]
async fn a_step_that_fails_in_the_pause_of_a_judgement_does_not_harm_it() {
    let audio = speech(1, 3.0);
    let occupied = occupied(&audio, options(1)).await;
    let [first, second] = &occupied.halves;
    occupied.fake.then(Fault::Panic);
    let live = occupied.engine.open(&request()).unwrap();
    send(&live, &audio);
    first.go_on.send(()).unwrap();
    assert_eq!(error_code(&rest(&live).await), Some(ErrorCode::EngineFailed));
    second.begun.recv().unwrap();
    second.go_on.send(()).unwrap();
    assert_eq!(finals(&rest(&occupied.judged).await), occupied.expected);
    // The worker is rebuilt behind it.
    soon(async {
        while occupied.engine.status().state != EngineState::Ready {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(
        finals(&heard(&occupied.engine, &judging(), &audio).await),
        occupied.expected
    );
    all_free(&occupied.engine).await;
}

#[tokio::test]
async fn a_step_that_hangs_in_the_pause_of_a_judgement_is_found() {
    let audio = speech(1, 3.0);
    let occupied = occupied(
        &audio,
        EngineOptions {
            hang_after: Duration::from_millis(100),
            ..options(1)
        },
    )
    .await;
    let hangs = occupied.fake.gate();
    let live = occupied.engine.open(&request()).unwrap();
    send(&live, &audio);
    occupied.halves[0].go_on.send(()).unwrap();
    soon(occupied.engine.failed()).await;
    for stream in [&live, &occupied.judged] {
        assert_eq!(error_code(&rest(stream).await), Some(ErrorCode::EngineFailed));
    }
    hangs.go_on.send(()).unwrap();
    let _ = occupied.halves[1].go_on.send(());
    all_free(&occupied.engine).await;
}

#[tokio::test]
async fn a_judgement_that_panics_ends_its_session_only() {
    let (engine, scorer) = judged(1);
    let audio = speech(1, 3.0);
    let expected = finals(&heard(&engine, &judging(), &audio).await);
    scorer.then(Fault::Panic);
    let events = {
        let stream = engine.open(&judging()).unwrap();
        send(&stream, &audio);
        // The fault may have ended it already.
        let _ = stream.send(Input::Stop);
        rest(&stream).await
    };
    assert_eq!(error_code(&events), Some(ErrorCode::Internal));
    assert_eq!(engine.status().state, EngineState::Ready);
    assert_eq!(finals(&heard(&engine, &judging(), &audio).await), expected);
    all_free(&engine).await;
}

#[tokio::test]
async fn a_judgement_that_hangs_ends_everything_and_says_so() {
    let (engine, scorer) = judged_with(EngineOptions {
        hang_after: Duration::from_millis(100),
        ..options(2)
    });
    let gate = scorer.gate();
    let hung = engine.open(&judging()).unwrap();
    let silent = engine.open(&request()).unwrap();
    send(&hung, &speech(1, 3.0));
    stop(&hung);
    gate.begun.recv().unwrap();
    soon(engine.failed()).await;
    assert_eq!(engine.status().state, EngineState::Failed);
    for stream in [&hung, &silent] {
        assert_eq!(error_code(&rest(stream).await), Some(ErrorCode::EngineFailed));
    }
    let Err(OpenError::Refused(refusal)) = engine.open(&judging()) else {
        panic!("a dead engine took a stream");
    };
    assert_eq!(refusal.code, ErrorCode::EngineFailed);
    // What comes back from the dead is nobody's.
    gate.go_on.send(()).unwrap();
    all_free(&engine).await;
    assert_eq!(soon(hung.next_event()).await, None);
}

/// A judgement of nothing but these log-probs.
fn only(log_probs: Vec<Option<f64>>) -> Judgement {
    Judgement {
        log_probs,
        found: Vec::new(),
    }
}

/// The first text is improbable, and `others` is what is said of each of the rest.
fn against_the_first(texts: usize, others: Option<f64>) -> Judgement {
    let first = Some(Some(-100.0));
    only(first.into_iter().chain(vec![others; texts - 1]).collect())
}

#[tokio::test]
async fn a_judgement_that_is_not_finite_loses_no_word() {
    let (engine, scorer) = judged(2);
    let audio = speech(1, 4.0);
    let usual = finals(&heard(&engine, &judging(), &audio).await);
    let neighbours = finals(&heard(&engine, &request(), &audio).await);
    scorer.say(|texts| only(vec![Some(0.0); texts]));
    let by_the_beam = finals(&heard(&engine, &judging(), &audio).await);
    assert!(!by_the_beam.is_empty());
    // A judgement can change words, so that what follows says something.
    scorer.say(|texts| against_the_first(texts, Some(0.0)));
    assert_ne!(finals(&heard(&engine, &judging(), &audio).await), by_the_beam);
    let unusable: [(&str, Says); 8] = [
        ("NaN", |texts| only(vec![Some(f64::NAN); texts])),
        ("inf", |texts| only(vec![Some(f64::INFINITY); texts])),
        ("-inf", |texts| only(vec![Some(f64::NEG_INFINITY); texts])),
        ("none", |texts| only(vec![None; texts])),
        ("nothing", |_| only(Vec::new())),
        ("all but the first NaN", |texts| {
            against_the_first(texts, Some(f64::NAN))
        }),
        ("all but the first missing", |_| against_the_first(1, None)),
        ("found NaN and inf", |texts| Judgement {
            log_probs: vec![Some(0.0); texts],
            found: vec![("a".into(), f64::NAN), ("c".into(), f64::INFINITY)],
        }),
    ];
    for (name, says) in unusable {
        scorer.say(says);
        let (judged, unjudged) = (judging(), request());
        let (events, beside) =
            tokio::join!(heard(&engine, &judged, &audio), heard(&engine, &unjudged, &audio));
        assert_eq!(finals(&events), by_the_beam, "{name}");
        assert!(matches!(events.last(), Some(Event::Done { .. })), "{name}");
        assert_eq!(finals(&beside), neighbours, "{name}");
    }
    *scorer.says.lock().unwrap() = None;
    assert_eq!(finals(&heard(&engine, &judging(), &audio).await), usual);
    all_free(&engine).await;
}

#[tokio::test]
async fn who_leaves_before_the_judgement_frees_the_slot() {
    let (engine, scorer) = judged(1);
    let audio = speech(1, 3.0);
    // The only worker is held, so that the other stream's judgement is still to come when its client leaves.
    let gate = scorer.gate();
    let first = engine.open(&judging()).unwrap();
    send(&first, &audio);
    stop(&first);
    gate.begun.recv().unwrap();
    let leaving = engine.open(&judging()).unwrap();
    send(&leaving, &audio);
    stop(&leaving);
    drop(leaving);
    gate.go_on.send(()).unwrap();
    assert!(!finals(&rest(&first).await).is_empty());
    drop(first);
    all_free(&engine).await;
}

#[tokio::test]
async fn a_flush_is_answered_behind_its_judgement() {
    let (engine, _) = judged(2);
    let stream = engine.open(&judging()).unwrap();
    let audio = speech(3, 1.5);
    send(&stream, &audio);
    flush(&stream, "one");
    send(&stream, &audio);
    stop(&stream);
    let events = rest(&stream).await;
    let flushed = events
        .iter()
        .position(|event| matches!(event, Event::Flushed { .. }))
        .unwrap();
    let before = finals(&events[..flushed]);
    let spoken: usize = before.iter().map(|last| last.words.len()).sum();
    assert!(spoken > 0, "{events:?}");
    assert!(!finals(&events[flushed..]).is_empty());
    drop(stream);
    all_free(&engine).await;
}
