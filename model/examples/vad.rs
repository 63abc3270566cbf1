//! Prints where speech begins and ends in WAV files, as JSON lines of milliseconds.
//!
//! `cargo run --release --workspace --example vad -- MODEL_DIRECTORY FILE.wav…`; what the original finds in the same files prints
//! `python tests/golden/fsmn_vad.py reference FILE.wav…`.

#![allow(clippy::print_stdout, reason = "it prints results")]

use std::error::Error;
use std::fs::File;
use std::path::Path;

use waxwing_frontend::container::{AudioFile, DecodeLimits};
use waxwing_frontend::pcm::ChannelSelection;
use waxwing_model::vad::{SpeechEvent, VadModel};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: vad MODEL_DIRECTORY FILE.wav…";
    let model = VadModel::load(Path::new(&arguments.next().ok_or(usage)?))?;
    for path in arguments {
        let events = detect(&model, &path)?;
        let mut segments = Vec::new();
        for event in events {
            match event {
                SpeechEvent::Start(start) => segments.push([start, start]),
                SpeechEvent::End(end) => {
                    if let Some(segment) = segments.last_mut() {
                        segment[1] = end;
                    }
                }
            }
        }
        println!("{}", serde_json::json!({"file": path, "segments": segments}));
    }
    Ok(())
}

fn detect(model: &VadModel, path: &str) -> Result<Vec<SpeechEvent>, Box<dyn Error>> {
    let mut file = AudioFile::open(File::open(path)?, DecodeLimits::default(), ChannelSelection::Mix)?;
    let mut stream = model.stream(file.rate_hz(), None)?;
    let mut events = Vec::new();
    let mut samples = Vec::new();
    while file.next_block(&mut samples)? {
        stream.push(&samples, &mut events)?;
        samples.clear();
    }
    stream.finish(&mut events)?;
    Ok(events)
}
