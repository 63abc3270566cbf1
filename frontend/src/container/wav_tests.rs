use std::io::Cursor;

use super::*;
use crate::container::AudioFile;
use crate::pcm::{alaw_to_i16, mulaw_to_i16};

/// A file made chunk by chunk.
struct Maker {
    tag: u16,
    channels: u16,
    rate_hz: u32,
    bits: u16,
    extensible: bool,
    /// What the header says of the length of the samples; None is the truth.
    data_length: Option<u32>,
    riff_length: Option<u32>,
    /// Chunks between format and samples, and after the samples.
    before: Vec<u8>,
    after: Vec<u8>,
}

impl Default for Maker {
    fn default() -> Self {
        Self {
            tag: TAG_PCM,
            channels: 1,
            rate_hz: 16_000,
            bits: 16,
            extensible: false,
            data_length: None,
            riff_length: None,
            before: Vec::new(),
            after: Vec::new(),
        }
    }
}

impl Maker {
    fn make(&self, data: &[u8]) -> Vec<u8> {
        let block_align = self.channels.wrapping_mul(self.bits.div_ceil(8));
        let mut format = Vec::new();
        format.extend(if self.extensible { TAG_EXTENSIBLE } else { self.tag }.to_le_bytes());
        format.extend(self.channels.to_le_bytes());
        format.extend(self.rate_hz.to_le_bytes());
        format.extend((self.rate_hz.wrapping_mul(u32::from(block_align))).to_le_bytes());
        format.extend(block_align.to_le_bytes());
        format.extend(self.bits.to_le_bytes());
        if self.extensible {
            format.extend([22, 0]);
            format.extend(self.bits.to_le_bytes());
            format.extend([0; 4]);
            format.extend(self.tag.to_le_bytes());
            format.extend(SUBFORMAT_TAIL);
        }
        let mut body = b"WAVE".to_vec();
        body.extend(chunk(b"fmt ", &format));
        body.extend(&self.before);
        body.extend(b"data");
        body.extend(self.data_length.unwrap_or(data.len() as u32).to_le_bytes());
        body.extend(data);
        body.extend(&self.after);
        let mut file = b"RIFF".to_vec();
        file.extend(self.riff_length.unwrap_or(body.len() as u32).to_le_bytes());
        file.extend(body);
        file
    }
}

fn chunk(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let mut chunk = kind.to_vec();
    chunk.extend((content.len() as u32).to_le_bytes());
    chunk.extend(content);
    chunk.resize(chunk.len() + content.len() % 2, 0);
    chunk
}

fn read(bytes: &[u8]) -> Result<(Vec<f32>, AudioFile), ContainerError> {
    let mut audio = AudioFile::from_bytes(bytes.to_vec(), DecodeLimits::default(), ChannelSelection::Mix)?;
    let mut samples = Vec::new();
    while audio.next_block(&mut samples)? {}
    Ok((samples, audio))
}

fn refused(bytes: &[u8]) -> String {
    read(bytes).map(drop).unwrap_err().to_string()
}

/// Four samples: 0.5, −0.5, 0.25, −1.
const S16: [u8; 8] = [0x00, 0x40, 0x00, 0xC0, 0x00, 0x20, 0x00, 0x80];
const DECODED: [f32; 4] = [0.5, -0.5, 0.25, -1.0];

#[test]
fn files_of_hound_read_as_hound_reads_them() {
    for (bits, float) in [(8, false), (16, false), (24, false), (32, false), (32, true)] {
        for channels in [1u16, 2, 5] {
            let sample_format = if float {
                hound::SampleFormat::Float
            } else {
                hound::SampleFormat::Int
            };
            let spec = hound::WavSpec {
                channels,
                sample_rate: 44_100,
                bits_per_sample: bits,
                sample_format,
            };
            let mut file = Cursor::new(Vec::new());
            let mut writer = hound::WavWriter::new(&mut file, spec).unwrap();
            for index in 0..1_000i64 * i64::from(channels) {
                let value = (index * 7_919 + 13) % 255 - 127;
                if float {
                    writer.write_sample(value as f32 / 128.0).unwrap();
                } else {
                    writer.write_sample((value << (bits - 8)) as i32).unwrap();
                }
            }
            writer.finalize().unwrap();
            let bytes = file.into_inner();
            let reader = hound::WavReader::new(Cursor::new(&bytes)).unwrap();
            let interleaved: Vec<f32> = if float {
                reader.into_samples::<f32>().map(Result::unwrap).collect()
            } else {
                let scale = (1u64 << (bits - 1)) as f32;
                reader
                    .into_samples::<i32>()
                    .map(|sample| sample.unwrap() as f32 / scale)
                    .collect()
            };
            let expected: Vec<f32> = interleaved
                .chunks(usize::from(channels))
                .map(|frame| frame.iter().sum::<f32>() / f32::from(channels))
                .collect();
            let (samples, audio) = read(&bytes).unwrap();
            assert_eq!(
                samples, expected,
                "{bits} bits, float {float}, {channels} channels"
            );
            assert_eq!(
                (audio.rate_hz(), audio.channels(), audio.warnings()),
                (44_100, channels, vec![])
            );
        }
    }
}

#[test]
fn telephony_and_doubles_are_read() {
    let codes: Vec<u8> = (0..=255).collect();
    let mulaw = Maker {
        tag: TAG_MULAW,
        bits: 8,
        rate_hz: 8_000,
        ..Maker::default()
    };
    let (samples, audio) = read(&mulaw.make(&codes)).unwrap();
    assert!(
        samples
            .iter()
            .zip(0..=255)
            .all(|(&sample, code)| sample == f32::from(mulaw_to_i16(code)) / 32_768.0)
    );
    assert_eq!((audio.rate_hz(), audio.format().codec), (8_000, "mu-law"));
    let alaw = Maker {
        tag: TAG_ALAW,
        bits: 8,
        rate_hz: 8_000,
        ..Maker::default()
    };
    let (samples, audio) = read(&alaw.make(&codes)).unwrap();
    assert!(
        samples
            .iter()
            .zip(0..=255)
            .all(|(&sample, code)| sample == f32::from(alaw_to_i16(code)) / 32_768.0)
    );
    assert_eq!(audio.format().codec, "A-law");
    let doubles: Vec<u8> = [0.5f64, f64::NAN, -0.25, f64::INFINITY]
        .iter()
        .flat_map(|v| v.to_le_bytes())
        .collect();
    let (samples, audio) = read(
        &Maker {
            tag: TAG_FLOAT,
            bits: 64,
            ..Maker::default()
        }
        .make(&doubles),
    )
    .unwrap();
    assert_eq!(samples, [0.5, 0.0, -0.25, 0.0]);
    assert_eq!(audio.warnings(), [Warning::NonFinite { count: 2 }]);
}

#[test]
fn extensible_headers_and_odd_chunks_are_read() {
    let (samples, _) = read(
        &Maker {
            extensible: true,
            ..Maker::default()
        }
        .make(&S16),
    )
    .unwrap();
    assert_eq!(samples, DECODED);
    let before = [
        chunk(b"LIST", b"odd"),
        chunk(b"fact", &[4, 0, 0, 0]),
        chunk(b"bext", &[0; 601]),
    ]
    .concat();
    let after = chunk(b"LIST", &[0x7F; 40]);
    let (samples, audio) = read(
        &Maker {
            before,
            after,
            ..Maker::default()
        }
        .make(&S16),
    )
    .unwrap();
    assert_eq!(
        (samples.as_slice(), audio.warnings()),
        (&DECODED[..], vec![]),
        "what follows is not audio"
    );
    // Twelve bits stand at the upper end of two bytes.
    let (samples, _) = read(
        &Maker {
            bits: 12,
            ..Maker::default()
        }
        .make(&S16),
    )
    .unwrap();
    assert_eq!(samples, DECODED);
}

#[test]
fn lengths_that_could_not_be_known_mean_what_is_there() {
    for data_length in [0, u32::MAX, 0x7FFF_F000, 0x7FFF_FFFF - 36] {
        for riff_length in [0, u32::MAX, 0x7FFF_FFFF, data_length.wrapping_add(36)] {
            let maker = Maker {
                data_length: Some(data_length),
                riff_length: Some(riff_length),
                ..Maker::default()
            };
            let (samples, audio) = read(&maker.make(&S16)).unwrap();
            assert_eq!(samples, DECODED, "{data_length:#x} {riff_length:#x}");
            assert_eq!(audio.warnings(), [], "{data_length:#x} {riff_length:#x}");
        }
    }
    let odd = Maker {
        data_length: Some(0),
        riff_length: Some(0),
        ..Maker::default()
    }
    .make(&S16[..7]);
    assert_eq!(
        read(&odd).unwrap().0,
        DECODED[..3],
        "rounded down to whole samples"
    );
}

#[test]
fn a_length_that_is_not_reached_is_a_truncated_file() {
    let maker = Maker {
        data_length: Some(1_000),
        ..Maker::default()
    };
    let (samples, audio) = read(&maker.make(&S16[..5])).unwrap();
    assert_eq!(samples, DECODED[..2]);
    assert!(audio.truncated());
    assert_eq!(
        audio.warnings(),
        [Warning::Truncated {
            declared_bytes: Some(1_000),
            present_bytes: 5
        }]
    );
    assert!(audio.warnings()[0].to_string().contains("5 of 1000 bytes"));
    // A length below what is there is the truth: the rest is not audio.
    let shorter = Maker {
        data_length: Some(4),
        ..Maker::default()
    };
    assert_eq!(read(&shorter.make(&S16)).unwrap().0, DECODED[..2]);
}

#[test]
fn files_beyond_four_gigabytes_have_their_length_elsewhere() {
    let mut file = b"RF64\xFF\xFF\xFF\xFFWAVE".to_vec();
    let sizes = [100u64, 4, 2]
        .iter()
        .flat_map(|size| size.to_le_bytes())
        .chain([0; 4])
        .collect::<Vec<u8>>();
    file.extend(chunk(b"ds64", &sizes));
    file.extend(&Maker::default().make(&S16)[12..]);
    let data = file.len() - S16.len() - 4;
    file[data..data + 4].copy_from_slice(&[0xFF; 4]);
    assert_eq!(read(&file).unwrap().0, DECODED[..2]);
}

#[test]
fn headers_that_make_no_sense_are_refused_with_a_reason() {
    let good = Maker::default().make(&S16);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (good[..30].to_vec(), "ends inside its header"),
        (good[..44].to_vec(), "holds no audio"),
        (good[..36].to_vec(), "holds no audio"),
        (Maker::default().make(&[]), "holds no audio"),
        (Maker::default().make(&[1]), "holds no audio"),
        (
            Maker {
                after: chunk(b"LIST", &[1; 64]),
                ..Maker::default()
            }
            .make(&[]),
            "holds no audio",
        ),
        (
            [&good[..12], &good[36..]].concat(),
            "samples come before their format",
        ),
        ([&good[..12], &chunk(b"LIST", b"x")].concat(), "no format chunk"),
        (
            Maker {
                channels: 0,
                ..Maker::default()
            }
            .make(&S16),
            "0 channels",
        ),
        (
            Maker {
                channels: 9,
                ..Maker::default()
            }
            .make(&[0; 36]),
            "9 channels and at most 8",
        ),
        (
            Maker {
                rate_hz: 4_000,
                ..Maker::default()
            }
            .make(&S16),
            "4000 Hz is out of range",
        ),
        (
            Maker {
                rate_hz: 384_000,
                ..Maker::default()
            }
            .make(&S16),
            "384000 Hz is out of range",
        ),
        (
            Maker {
                bits: 40,
                ..Maker::default()
            }
            .make(&S16),
            "40-bit integers is not supported",
        ),
        (
            Maker {
                tag: 0x55,
                ..Maker::default()
            }
            .make(&S16),
            "MP3 inside is not supported",
        ),
        (
            Maker {
                tag: 0x161,
                ..Maker::default()
            }
            .make(&S16),
            "codec 0x0161",
        ),
        (
            Maker {
                tag: TAG_MULAW,
                ..Maker::default()
            }
            .make(&S16),
            "codec 0x0007",
        ),
    ];
    for (bytes, reason) in cases {
        let error = refused(&bytes);
        assert!(error.contains(reason), "expected \"{reason}\" in: {error}");
    }
}
