//! How fast the front end is: seconds of audio for each second of one core, by encoding and rate, and by file format.
//!
//! ```text
//! cargo run --release -p waxwing-frontend --example features [FILE…]
//! ```
//!
//! Each line repeats its audio until a second has passed, in pushes of 20 ms for streams.

#![allow(clippy::print_stdout, reason = "it prints a table")]

use std::error::Error;
use std::fs::File;
use std::time::{Duration, Instant};

use waxwing_frontend::container::{AudioFile, DecodeLimits};
use waxwing_frontend::features::{FeatureConfig, KaldiFbankConfig};
use waxwing_frontend::pcm::{ChannelSelection, Encoding, PcmDecoder};
use waxwing_frontend::{Frontend, FrontendConfig};

const MODEL_RATE_HZ: u32 = 16_000;
const MEASURED: Duration = Duration::from_secs(1);

fn main() -> Result<(), Box<dyn Error>> {
    println!("| input | features | × real time | state KiB |");
    println!("|---|---|---:|---:|");
    for (name, features) in [
        ("streaming_log_mel", FeatureConfig::default()),
        (
            "kaldi_fbank",
            FeatureConfig::KaldiFbank(KaldiFbankConfig::default()),
        ),
    ] {
        for rate_hz in [8_000, 16_000, 44_100, 48_000] {
            for encoding in [Encoding::S16le, Encoding::F32le, Encoding::Mulaw] {
                let (speed, bytes) = stream(encoding, rate_hz, &features)?;
                println!(
                    "| {encoding} {rate_hz} Hz | {name} | {speed:.0} | {:.1} |",
                    bytes as f64 / 1_024.0
                );
            }
        }
    }
    for path in std::env::args().skip(1) {
        let speed = decode(&path)?;
        println!("| {path} | decoding only | {speed:.0} | |");
    }
    Ok(())
}

/// Audio seconds per second through decoder and front end, and the bytes that a session holds for them.
fn stream(
    encoding: Encoding,
    rate_hz: u32,
    features: &FeatureConfig,
) -> Result<(f64, usize), Box<dyn Error>> {
    let config = FrontendConfig {
        input_rate_hz: rate_hz,
        model_rate_hz: MODEL_RATE_HZ,
        features: features.clone(),
    };
    let mut frontend = Frontend::new(config)?;
    let mut decoder = PcmDecoder::new(encoding, 1, ChannelSelection::Mix)?;
    let message: Vec<u8> = (0..rate_hz as usize / 50 * encoding.bytes_per_sample())
        .map(|index| (index * 37 % 59) as u8)
        .collect();
    let (mut samples, mut frames) = (Vec::new(), Vec::new());
    let started = Instant::now();
    while started.elapsed() < MEASURED {
        for _ in 0..50 {
            samples.clear();
            frames.clear();
            decoder.push(&message, &mut samples);
            frontend.push(&samples, &mut frames);
        }
    }
    let seconds = frontend.samples_received() as f64 / f64::from(rate_hz);
    Ok((seconds / started.elapsed().as_secs_f64(), frontend.state_bytes()))
}

/// Audio seconds per second of decoding a file to mono.
fn decode(path: &str) -> Result<f64, Box<dyn Error>> {
    let started = Instant::now();
    let (mut seconds, mut block) = (0.0, Vec::new());
    while started.elapsed() < MEASURED {
        let mut audio = AudioFile::open(File::open(path)?, DecodeLimits::default(), ChannelSelection::Mix)?;
        while audio.next_block(&mut block)? {
            block.clear();
        }
        seconds += audio.samples_decoded() as f64 / f64::from(audio.rate_hz());
    }
    Ok(seconds / started.elapsed().as_secs_f64())
}
