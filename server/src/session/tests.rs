//! The table of what goes wrong, row by row, and the law of the one ending.

use proptest::prelude::*;

use super::*;
use crate::engine::Utterance;

const CLOCKS: Clocks = Clocks {
    idle: Duration::from_secs(30),
    session: Duration::from_secs(3600),
};

struct Harness {
    session: Session,
    now: Instant,
}

impl Harness {
    fn new() -> Self {
        let models = ModelNames(vec!["en-emformer".into()]);
        let parameters = Parameters::new(&models, crate::wire::native::Decoding::default());
        let now = Instant::now();
        Self {
            session: Session::new(models, parameters, CLOCKS, now),
            now,
        }
    }

    fn text(&mut self, text: &str) -> Vec<String> {
        self.message(Incoming::Text(text.into()))
    }

    fn audio(&mut self, bytes: usize) -> Vec<String> {
        self.message(Incoming::Binary(Bytes::from(vec![0; bytes])))
    }

    fn message(&mut self, message: Incoming) -> Vec<String> {
        let mut actions = Vec::new();
        self.session.message(message, self.now, &mut actions);
        shown(&actions)
    }

    fn event(&mut self, event: Event) -> Vec<String> {
        let mut actions = Vec::new();
        self.session.event(event, &mut actions);
        shown(&actions)
    }

    fn after(&mut self, wait: Duration) -> Vec<String> {
        self.now += wait;
        let mut actions = Vec::new();
        self.session.tick(self.now, &mut actions);
        shown(&actions)
    }

    fn done(&mut self) -> Vec<String> {
        self.event(Event::Done {
            audio_seconds: 1.0,
            utterances: 0,
        })
    }
}

fn shown(actions: &[Action]) -> Vec<String> {
    let show = |action: &Action| match action {
        Action::Send(ServerMessage::Warning { code, .. }) => format!("warning {code}"),
        Action::Send(ServerMessage::Error { code, .. }) => format!("error {code}"),
        Action::Send(ServerMessage::Done { ignored_messages, .. }) => format!("done {ignored_messages}"),
        Action::Send(message) => message.to_json(),
        Action::Reopen(parameters) => format!("reopen {} {}", parameters.encoding, parameters.sample_rate_hz),
        Action::Configure(parameters) => format!(
            "configure {} {:?}",
            parameters.partials, parameters.endpointing.silence_ms
        ),
        Action::Input(Input::Audio(bytes)) => format!("audio {}", bytes.len()),
        Action::Input(Input::Flush { id }) => format!("flush {id:?}"),
        Action::Input(Input::Stop) => "stop".into(),
        Action::Input(_) => "input".into(),
        Action::Close(code, _) => format!("close {code}"),
    };
    actions.iter().map(show).collect()
}

#[test]
fn an_ordinary_session() {
    let mut harness = Harness::new();
    assert_eq!(
        harness.text(r#"{"type":"start","encoding":"f32le","sample_rate":48000}"#),
        ["reopen f32le 48000"]
    );
    assert_eq!(harness.audio(400), ["audio 400"]);
    assert_eq!(
        harness.text(r#"{"type":"flush","id":"7"}"#),
        [r#"flush Some("7")"#]
    );
    assert_eq!(
        harness.event(Event::Flushed { id: Some("7".into()) }),
        [r#"{"type":"flushed","id":"7"}"#]
    );
    assert_eq!(
        harness.text(r#"{"type":"configure","endpointing":{"silence_ms":500}}"#),
        ["configure true Some(500)"]
    );
    assert_eq!(harness.text(r#"{"type":"stop"}"#), ["stop"]);
    assert_eq!(harness.done(), ["done 0", "close 1000"]);
    assert!(harness.session.is_closed());
}

#[test]
fn any_split_of_the_bytes_is_handed_on_and_the_engine_judges_the_sum() {
    let mut harness = Harness::new();
    assert_eq!(harness.audio(3), ["audio 3"]);
    assert_eq!(harness.audio(1), ["audio 1"]);
    let warning = Event::Warning {
        code: WarningCode::OddAudioLength.as_str(),
        message: String::new(),
    };
    assert_eq!(harness.event(warning), ["warning odd_audio_length"]);
}

#[test]
fn empty_messages_and_those_after_stop_are_ignored_and_counted() {
    let mut harness = Harness::new();
    assert!(harness.audio(0).is_empty() && harness.text("").is_empty());
    harness.text(r#"{"type":"stop"}"#);
    assert!(harness.audio(100).is_empty() && harness.text("nonsense").is_empty());
    assert_eq!(harness.done(), ["done 4", "close 1000"]);
}

#[test]
fn ten_misunderstood_messages_are_warnings_and_the_eleventh_is_an_error() {
    let mut harness = Harness::new();
    for index in 0..10 {
        let (text, warning) = match index % 3 {
            0 => ("{", "warning bad_message"),
            1 => (r#"{"type":"dance"}"#, "warning unknown_type"),
            _ => (r#"{"type":"start","sample_rate":"fast"}"#, "warning bad_message"),
        };
        assert_eq!(harness.text(text), [warning]);
    }
    assert_eq!(harness.text("{"), ["error too_many_bad_messages", "close 1008"]);
    assert!(harness.text("{").is_empty() && harness.done().is_empty());
}

#[test]
fn what_cannot_be_served_is_an_error() {
    for (text, code) in [
        (r#"{"type":"start","encoding":"s16be"}"#, "unknown_encoding"),
        (r#"{"type":"start","model":"no-such-model"}"#, "unknown_model"),
        (r#"{"type":"start","sample_rate":4000}"#, "unsupported_rate"),
        (r#"{"type":"start","channels":0}"#, "unsupported_channels"),
        (
            r#"{"type":"configure","endpointing":{"silence_ms":1}}"#,
            "invalid_field",
        ),
    ] {
        assert_eq!(
            Harness::new().text(text),
            [format!("error {code}"), "close 1008".into()],
            "{text}"
        );
    }
    assert_eq!(
        Harness::new().message(Incoming::TooLarge),
        ["error message_too_large", "close 1009"]
    );
}

#[test]
fn a_start_that_comes_late_is_a_warning() {
    let mut harness = Harness::new();
    harness.audio(2);
    assert_eq!(harness.text(r#"{"type":"start"}"#), ["warning late_start"]);
    let mut harness = Harness::new();
    harness.text(r#"{"type":"start"}"#);
    assert_eq!(harness.text(r#"{"type":"start"}"#), ["warning late_start"]);
}

#[test]
fn silence_on_the_wire_ends_the_session_with_its_last_words() {
    let mut harness = Harness::new();
    assert!(harness.after(Duration::from_secs(29)).is_empty());
    harness.text(r#"{"type":"keepalive"}"#);
    assert!(harness.after(Duration::from_secs(29)).is_empty());
    harness.audio(2);
    assert!(harness.after(Duration::from_secs(29)).is_empty());
    assert_eq!(
        harness.session.deadline(),
        Some(harness.now + Duration::from_secs(1))
    );
    assert_eq!(harness.after(Duration::from_secs(1)), ["stop"]);
    assert_eq!(harness.session.deadline(), None);
    assert_eq!(harness.done(), ["error idle_timeout", "close 1008"]);
}

#[test]
fn bad_messages_do_not_keep_a_session_alive() {
    let mut harness = Harness::new();
    harness.after(Duration::from_secs(29));
    harness.text("{");
    assert_eq!(harness.after(Duration::from_secs(1)), ["stop"]);
}

#[test]
fn the_longest_session_is_noticed_before_and_ends_with_its_last_words() {
    let mut harness = Harness::new();
    let mut seen = Vec::new();
    for _ in 0..360 {
        harness.audio(2);
        seen.extend(harness.after(Duration::from_secs(10)));
    }
    assert_eq!(seen, ["warning session_ending", "stop"]);
    assert_eq!(harness.done(), ["error session_too_long", "close 1008"]);
}

#[test]
fn a_stopping_server_lets_sessions_finish() {
    let mut harness = Harness::new();
    harness.audio(2);
    let mut actions = Vec::new();
    harness.session.drain(&mut actions);
    assert_eq!(shown(&actions), ["stop"]);
    assert!(harness.audio(2).is_empty());
    assert_eq!(harness.done(), ["done 1", "close 1012"]);
    // A stream that the engine ended by itself says the same.
    assert_eq!(Harness::new().done(), ["done 0", "close 1012"]);
}

#[test]
fn an_engine_error_closes_with_its_own_code() {
    for code in [ErrorCode::EngineFailed, ErrorCode::NonFinite, ErrorCode::Draining] {
        let event = Event::Error {
            code,
            message: "it broke".into(),
        };
        let expected = [format!("error {code}"), format!("close {}", code.close_code())];
        assert_eq!(Harness::new().event(event), expected);
    }
}

fn utterance() -> Utterance {
    Utterance {
        utterance: 0,
        start: 0.0,
        end: 1.0,
        text: "a".into(),
        words: Vec::new(),
        stable_words: 0,
        confidence: 1.0,
        audio_processed: 1.0,
        alternatives: Vec::new(),
    }
}

#[test]
fn partials_and_words_can_be_switched_off() {
    let mut harness = Harness::new();
    harness.text(r#"{"type":"configure","partials":false,"words":false}"#);
    assert!(harness.event(Event::Partial(utterance())).is_empty());
    assert!(
        !harness
            .event(Event::Final(utterance()))
            .join("")
            .contains("words")
    );
}

#[derive(Debug, Clone)]
enum Stimulus {
    Message(Incoming),
    Event(Event),
    Tick(u64),
    Drain,
}

fn stimulus() -> impl Strategy<Value = Stimulus> {
    let texts = prop::sample::select(vec![
        "",
        "{",
        "[]",
        r#"{"type":"start"}"#,
        r#"{"type":"start","encoding":"x"}"#,
        r#"{"type":"configure"}"#,
        r#"{"type":"flush"}"#,
        r#"{"type":"keepalive"}"#,
        r#"{"type":"stop"}"#,
        r#"{"type":"dance"}"#,
    ]);
    prop_oneof![
        4 => (0_usize..5).prop_map(|bytes| Stimulus::Message(Incoming::Binary(vec![0; bytes].into()))),
        6 => texts.prop_map(|text| Stimulus::Message(Incoming::Text(text.into()))),
        1 => Just(Stimulus::Message(Incoming::TooLarge)),
        3 => Just(Stimulus::Event(Event::Partial(utterance()))),
        2 => Just(Stimulus::Event(Event::Final(utterance()))),
        1 => Just(Stimulus::Event(Event::Done { audio_seconds: 0.0, utterances: 0 })),
        1 => Just(Stimulus::Event(Event::Error { code: ErrorCode::EngineFailed, message: String::new() })),
        3 => (0_u64..40).prop_map(Stimulus::Tick),
        1 => Just(Stimulus::Drain),
    ]
}

proptest! {
    /// I6: whatever happens in whatever order, at most one `done` or `error`, directly before the one Close, and
    /// nothing after it. Once the stream is done or the clock has run out, exactly one.
    #[test]
    fn a_session_ends_exactly_once(stimuli in prop::collection::vec(stimulus(), 0..60)) {
        let mut harness = Harness::new();
        let mut actions = Vec::new();
        for stimulus in stimuli {
            match stimulus {
                Stimulus::Message(message) => harness.session.message(message, harness.now, &mut actions),
                Stimulus::Event(event) => harness.session.event(event, &mut actions),
                Stimulus::Tick(seconds) => {
                    harness.now += Duration::from_secs(seconds);
                    harness.session.tick(harness.now, &mut actions);
                }
                Stimulus::Drain => harness.session.drain(&mut actions),
            }
        }
        harness.session.event(Event::Done { audio_seconds: 0.0, utterances: 0 }, &mut actions);
        prop_assert!(harness.session.is_closed());
        let is_ending = |action: &&Action| matches!(action, Action::Send(ServerMessage::Done { .. } | ServerMessage::Error { .. }));
        prop_assert_eq!(actions.iter().filter(is_ending).count(), 1);
        prop_assert_eq!(actions.iter().filter(|action| matches!(action, Action::Close(..))).count(), 1);
        let last_two = actions.last_chunk::<2>().map(|[ending, close]| (is_ending(&ending), matches!(close, Action::Close(..))));
        prop_assert_eq!(last_two, Some((true, true)));
        prop_assert!(actions.iter().filter(|action| matches!(action, Action::Input(Input::Stop))).count() <= 1);
    }
}
