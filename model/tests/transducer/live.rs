//! Audio to words, in batches of live sessions.

use candle_core::{Device, Tensor};
use serde_json::{Map, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use waxwing_model::Model;
use waxwing_model::convert::{Options, convert_file};
use waxwing_model::encoder::StepRow;
use waxwing_model::transcript::Decoding;

use crate::support::{Directory, F32_TOLERANCE, Golden, flat, golden, kind, numbers, small};

/// One stream: its audio, where it is in it, and what it has said.
struct Stream {
    audio: Vec<f32>,
    at: usize,
    chunk: usize,
    extractor: Box<dyn waxwing_frontend::features::FeatureExtractor>,
    features: Vec<f32>,
    state: waxwing_model::encoder::StateCache,
    output: Vec<f32>,
    frames: Vec<f32>,
    transcriber: waxwing_model::transcript::Transcriber,
    finals: Vec<waxwing_model::transcript::Utterance>,
    most_bytes: usize,
}

impl Stream {
    fn new(model: &Model, audio: Vec<f32>, chunk: usize, max_utterance_ms: u32) -> Self {
        Self::with_beam(model, audio, chunk, max_utterance_ms, 1)
    }

    fn with_beam(
        model: &Model,
        audio: Vec<f32>,
        chunk: usize,
        max_utterance_ms: u32,
        beam_width: usize,
    ) -> Self {
        let decoding = Decoding {
            beam_width,
            ..Decoding::default()
        };
        let options = waxwing_model::transcript::TranscriberOptions {
            decoding,
            endpointing: waxwing_model::transcript::Endpointing {
                silence_ms: 0,
                max_utterance_ms,
            },
            ..Default::default()
        };
        Self {
            audio,
            at: 0,
            chunk,
            extractor: model.features().extractor(16_000).unwrap(),
            features: Vec::new(),
            state: model.new_state(),
            output: Vec::new(),
            frames: Vec::new(),
            transcriber: model.transcriber(options),
            finals: Vec::new(),
            most_bytes: model.max_transcriber_bytes(&decoding),
        }
    }

    fn needed(&self, model: &Model) -> usize {
        model.geometry().frames_needed(self.state.steps) * model.geometry().num_features
    }

    /// Hears the next chunk; whether a step can be made.
    fn hear(&mut self, model: &Model) -> bool {
        let end = (self.at + self.chunk).min(self.audio.len());
        self.extractor.push(&self.audio[self.at..end], &mut self.features);
        self.at = end;
        self.features.len() >= self.needed(model)
    }

    fn is_done(&self, model: &Model) -> bool {
        self.at == self.audio.len() && self.features.len() < self.needed(model)
    }

    /// Checks what must hold of every partial, and takes the finals.
    fn decode(&mut self) {
        self.frames.extend_from_slice(&self.output);
        self.transcriber.accept(&self.output, &mut self.finals);
        assert!(self.transcriber.state_bytes() <= self.most_bytes);
        if let Some(partial) = self.transcriber.partial() {
            assert!(
                partial.words.iter().all(|word| word.start <= word.end),
                "{partial:?}"
            );
            assert!(
                partial.words.windows(2).all(|pair| pair[0].end <= pair[1].start),
                "{partial:?}"
            );
        }
    }
}

fn steps(model: &Model, streams: &mut [&mut Stream]) {
    let needed: Vec<usize> = streams.iter().map(|stream| stream.needed(model)).collect();
    let mut rows: Vec<StepRow<'_>> = streams
        .iter_mut()
        .zip(&needed)
        .map(|(stream, needed)| StepRow {
            state: &mut stream.state,
            features: &stream.features[..*needed],
            output: &mut stream.output,
        })
        .collect();
    model.step(&mut rows).unwrap();
    drop(rows);
    for (stream, needed) in streams.iter_mut().zip(needed) {
        stream.features.drain(..needed);
        stream.decode();
    }
}

/// The small checkpoint as a model that can be served.
fn served(directory: &Directory, options: Options) -> (Model, PathBuf) {
    std::fs::create_dir_all(&directory.0).unwrap();
    let stats = directory.0.join("stats.json");
    std::fs::write(
        &stats,
        json!({"mean": vec![9.0; 8], "invstddev": vec![0.4; 8]}).to_string(),
    )
    .unwrap();
    let options = Options {
        normalisation: Some(stats),
        tokens: Some(golden("tokens.model")),
        ..options
    };
    let path = directory.0.join("model");
    convert_file(kind("rnnt"), &golden("rnnt.pt"), &options, &path).unwrap();
    (Model::load(&path).unwrap(), path)
}

/// A tone that swells, other parts of it for each session.
fn audio() -> impl Fn(usize) -> Vec<f32> {
    let tone: Vec<f32> = flat(&Golden::load().tensor("features.audio"))
        .iter()
        .map(|v| (*v / 32768.0) as f32)
        .collect();
    move |session| {
        let tone = tone
            .iter()
            .cycle()
            .skip(session * 1_117)
            .take(36_000 + session * 2_001);
        tone.enumerate()
            .map(|(at, value)| value * (1.0 + (at as f32 * 3e-4).sin()))
            .collect()
    }
}

/// What a stream that is alone says.
fn said(model: &Model, mut stream: Stream) -> Stream {
    while !stream.is_done(model) {
        stream.hear(model);
        steps(model, &mut [&mut stream]);
    }
    stream.finals.extend(stream.transcriber.finish());
    stream
}

/// A session's width of the beam takes the place of the model's, and is as if the model had it.
#[test]
fn a_session_sets_its_beam() {
    let with = |beam_width: usize| Options {
        set: [
            small().set,
            Map::from_iter([("search".to_owned(), json!({"beam_width": beam_width}))]),
        ]
        .into_iter()
        .flatten()
        .collect(),
        ..small()
    };
    let (wide, narrow) = (Directory::new("wide"), Directory::new("narrow"));
    let ((wide, _), (narrow, _)) = (served(&wide, with(9)), served(&narrow, with(2)));
    let audio = audio();
    let texts = |stream: Stream| {
        let finals = stream.finals.iter();
        finals
            .map(|heard| (heard.text(), heard.alternatives.len(), heard.confidence.to_bits()))
            .collect::<Vec<_>>()
    };
    let mut differ = 0;
    for session in 0..4 {
        let say = |model: &Model, beam| {
            texts(said(
                model,
                Stream::with_beam(model, audio(session), 9_000, 1_000, beam),
            ))
        };
        assert_eq!(say(&wide, 2), say(&narrow, 1), "session {session}");
        assert_eq!(say(&narrow, 9), say(&wide, 1), "session {session}");
        differ += usize::from(say(&wide, 1) != say(&narrow, 1));
    }
    assert!(differ > 0, "the width of the beam changed nothing");
    let bytes = |beam_width| {
        narrow.max_transcriber_bytes(&Decoding {
            beam_width,
            ..Decoding::default()
        })
    };
    assert!(
        bytes(9) > bytes(1) && bytes(2) == bytes(1),
        "{} {} {}",
        bytes(9),
        bytes(1),
        bytes(2)
    );
}

/// Audio to words, live: eight sessions that start at different times with different chunks, in one batch, say what each says
/// alone, and their frames are those of the original's way to stream, window by window.
#[test]
fn eight_live_sessions_equal_their_own_offline_runs() {
    let (directory, audio) = (Directory::new("live"), audio());
    let (model, path) = served(&directory, small());
    let alone: Vec<Stream> = (0..8)
        .map(|session| said(&model, Stream::new(&model, audio(session), 100_000, 1_000)))
        .collect();
    let mut live: Vec<Stream> = (0..8)
        .map(|session| Stream::new(&model, audio(session), 160 + 731 * session, 1_000))
        .collect();
    for round in 0.. {
        if live.iter().all(|stream| stream.is_done(&model)) {
            break;
        }
        let mut ready: Vec<&mut Stream> = Vec::new();
        for (session, stream) in live.iter_mut().enumerate() {
            if round >= 13 * session && stream.hear(&model) {
                ready.push(stream);
            }
        }
        if !ready.is_empty() {
            steps(&model, &mut ready);
        }
    }
    let module = waxwing_model::module::load(&path).unwrap();
    let (mut words, mut cuts, mut greatest) = (0, 0, 0f64);
    for (session, (alone, live)) in alone.iter().zip(&mut live).enumerate() {
        live.finals.extend(live.transcriber.finish());
        assert_eq!(live.frames.len(), alone.frames.len());
        let pairs = live.frames.iter().zip(&alone.frames);
        let worst = pairs
            .map(|(live, alone)| (live - alone).abs())
            .fold(0.0, f32::max);
        assert!(worst <= 1e-4, "session {session}: {worst}");
        let text = |stream: &Stream| {
            stream
                .finals
                .iter()
                .map(|u| (u.start, u.text()))
                .collect::<Vec<_>>()
        };
        assert_eq!(text(live), text(alone), "session {session}");
        for pair in live.finals.windows(2) {
            assert!(pair[0].end <= pair[1].start && pair[0].utterance + 1 == pair[1].utterance);
        }
        cuts += live.finals.len().saturating_sub(1);
        words += live
            .finals
            .iter()
            .map(|utterance| utterance.words.len())
            .sum::<usize>();

        // torchaudio's way: each window's mel frames through the streaming transcriber.
        let mut values = Vec::new();
        model
            .features()
            .extractor(16_000)
            .unwrap()
            .push(&audio(session), &mut values);
        let mut inputs = BTreeMap::new();
        let mut expected: Vec<f64> = Vec::new();
        for window in values.chunks_exact(20 * 8) {
            let window = Tensor::from_slice(window, (1, 20, 8), &Device::Cpu).unwrap();
            inputs.insert("window".into(), window);
            inputs.insert("lengths".into(), numbers(&[20]));
            inputs = module.run(&inputs).unwrap();
            expected.extend(flat(&inputs.remove("output").unwrap()));
        }
        assert_eq!(live.frames.len(), expected.len());
        for (live, expected) in live.frames.iter().zip(expected) {
            greatest = greatest.max((f64::from(*live) - expected).abs());
        }
    }
    assert!(greatest <= F32_TOLERANCE, "{greatest}");
    assert!(
        words > 15 && cuts > 0,
        "only {words} words, {cuts} utterances were cut"
    );
    println!(
        "RNN-T live: 8 sessions, {words} words, {cuts} cuts, frames within {greatest:.2e} of the original's windows"
    );
}
