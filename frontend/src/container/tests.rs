use std::io::{self, SeekFrom};

use super::*;

macro_rules! clip {
    ($name:literal) => {
        (
            $name,
            include_bytes!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../tests/golden/frontend/",
                $name
            )) as &[u8],
        )
    };
}

/// Half a second of one sound at 16 kHz: what every clip was made from, by `tests/golden/frontend/make_audio.sh`.
pub(super) const SOURCE: (&str, &[u8]) = clip!("source.wav");

/// A clip and what it must decode to.
pub(super) struct Expected {
    pub(super) clip: (&'static str, &'static [u8]),
    format: &'static str,
    rate_hz: u32,
    channels: u16,
    /// Samples of the sound at `rate_hz`, when the container says where it ends.
    samples: usize,
    /// Samples in front of it that the container does not tell about.
    delay: usize,
    /// Least correlation with the source.
    correlation: f64,
}

const fn expect(
    clip: (&'static str, &'static [u8]),
    format: &'static str,
    rate_hz: u32,
    samples: usize,
    correlation: f64,
) -> Expected {
    Expected {
        clip,
        format,
        rate_hz,
        channels: 1,
        samples,
        delay: 0,
        correlation,
    }
}

pub(super) const CLIPS: [Expected; 18] = [
    expect(SOURCE, "wav (16-bit integer)", 16_000, 8_000, 0.999_999),
    expect(
        clip!("clip.piped.wav"),
        "wav (16-bit integer)",
        16_000,
        8_000,
        0.999_999,
    ),
    expect(clip!("clip.flac"), "flac (flac)", 16_000, 8_000, 0.999_999),
    expect(clip!("clip.flac.ogg"), "ogg (flac)", 16_000, 8_000, 0.999_999),
    expect(clip!("clip.vorbis.ogg"), "ogg (vorbis)", 16_000, 8_000, 0.997),
    expect(clip!("clip.vorbis.mka"), "webm (vorbis)", 16_000, 8_192, 0.997),
    expect(clip!("clip.mp3"), "mp3 (mp3)", 16_000, 8_000, 0.999),
    expect(clip!("clip.44100.mp3"), "mp3 (mp3)", 44_100, 22_050, 0.999),
    expect(clip!("clip.m4a"), "m4a (aac)", 16_000, 8_000, 0.997),
    Expected {
        channels: 2,
        ..expect(clip!("clip.stereo.m4a"), "m4a (aac)", 44_100, 22_050, 0.995)
    },
    Expected {
        delay: 1_024,
        ..expect(clip!("clip.aac"), "aac (aac)", 16_000, 9_216, 0.997)
    },
    Expected {
        delay: 1_024,
        ..expect(clip!("clip.fragmented.mp4"), "m4a (aac)", 16_000, 9_216, 0.997)
    },
    expect(clip!("clip.video.mp4"), "m4a (aac)", 16_000, 8_000, 0.997),
    expect(clip!("clip.opus"), "ogg (opus)", 48_000, 24_000, 0.98),
    Expected {
        channels: 2,
        ..expect(clip!("clip.stereo.opus"), "ogg (opus)", 48_000, 24_000, 0.98)
    },
    Expected {
        channels: 6,
        ..expect(clip!("clip.six.opus"), "ogg (opus)", 48_000, 24_000, 0.95)
    },
    expect(clip!("clip.webm"), "webm (opus)", 48_000, 24_648, 0.98),
    expect(clip!("clip.live.webm"), "webm (opus)", 48_000, 24_648, 0.98),
];

fn open(bytes: &[u8]) -> Result<AudioFile, ContainerError> {
    AudioFile::from_bytes(bytes.to_vec(), DecodeLimits::default(), ChannelSelection::Mix)
}

fn decode(audio: &mut AudioFile) -> Vec<f32> {
    let mut samples = Vec::new();
    while audio.next_block(&mut samples).unwrap() {}
    samples
}

/// Correlation of the source with what stands `delay` samples into `samples`.
fn correlation(source: &[f32], samples: &[f32], rate_hz: u32, delay: usize) -> f64 {
    let step = f64::from(rate_hz) / 16_000.0;
    let value = |index: usize| samples.get(index + delay).copied().unwrap_or(0.0);
    let at = |index: usize| {
        let position = index as f64 * step;
        let part = position.fract() as f32;
        value(position as usize) * (1.0 - part) + value(position as usize + 1) * part
    };
    let (mut both, mut one, mut other) = (0.0, 0.0, 0.0);
    for (index, &sample) in source.iter().enumerate() {
        let (sample, value) = (f64::from(sample), f64::from(at(index)));
        both += sample * value;
        one += sample * sample;
        other += value * value;
    }
    both / (one * other).sqrt().max(1e-12)
}

#[test]
fn every_container_gives_back_the_sound_that_went_in() {
    let source = decode(&mut open(SOURCE.1).unwrap());
    for expected in &CLIPS {
        let name = expected.clip.0;
        let mut audio = open(expected.clip.1).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(audio.format().to_string(), expected.format, "{name}");
        assert_eq!(
            (audio.rate_hz(), audio.channels()),
            (expected.rate_hz, expected.channels),
            "{name}"
        );
        let samples = decode(&mut audio);
        assert_eq!(samples.len(), expected.samples, "{name}");
        assert_eq!(audio.samples_decoded(), samples.len() as u64, "{name}");
        assert_eq!(audio.warnings(), [], "{name}");
        if let Some(declared) = audio.declared_duration() {
            assert!(
                (declared.as_secs_f64() - 0.5).abs() < 0.08,
                "{name}: {declared:?}"
            );
        }
        let reached = correlation(&source, &samples, expected.rate_hz, expected.delay);
        assert!(reached >= expected.correlation, "{name}: correlation {reached}");
        assert_eq!(
            audio.next_block(&mut Vec::new()),
            Ok(false),
            "{name}: the end stays the end"
        );
    }
}

#[test]
fn a_tag_in_front_is_passed_over() {
    let mut tagged = b"ID3\x04\x00\x00\x00\x00\x02\x01".to_vec();
    tagged.extend(vec![0xFF; 257]);
    for name in ["mp3", "flac", "aac"] {
        let clip = CLIPS
            .iter()
            .find(|expected| expected.clip.0 == format!("clip.{name}"))
            .unwrap();
        let bytes = [&tagged, clip.clip.1].concat();
        let mut audio = open(&bytes).unwrap();
        assert_eq!(audio.format().container, name);
        assert_eq!(decode(&mut audio).len(), clip.samples, "{name}");
    }
}

/// What is there is decoded, and it is said that something is missing. A WebM from a recorder has no end to miss.
#[test]
fn a_file_that_ends_early_gives_what_is_there() {
    for (name, share, said) in [
        ("clip.flac", 0.8, true),
        ("clip.mp3", 0.6, true),
        ("clip.opus", 0.6, true),
        ("clip.vorbis.ogg", 0.95, true),
        ("clip.stereo.m4a", 0.7, true),
        ("clip.webm", 0.6, false),
        ("clip.live.webm", 0.6, false),
    ] {
        let clip = CLIPS.iter().find(|expected| expected.clip.0 == name).unwrap();
        let end = (clip.clip.1.len() as f64 * share) as usize;
        let mut audio = open(&clip.clip.1[..end]).unwrap_or_else(|error| panic!("{name}: {error}"));
        let samples = decode(&mut audio);
        let whole = decode(&mut open(clip.clip.1).unwrap());
        assert!(
            samples.len() > clip.samples / 4 && samples.len() < clip.samples,
            "{name}: {}",
            samples.len()
        );
        let same = samples
            .iter()
            .zip(&whole)
            .take_while(|(cut, whole)| cut == whole)
            .count();
        assert!(
            same + 2_000 > samples.len(),
            "{name}: {same} of {} as in the whole file",
            samples.len()
        );
        assert_eq!(audio.truncated(), said, "{name}: {:?}", audio.warnings());
    }
}

#[test]
fn what_is_not_audio_is_named() {
    let speex = [&CLIPS[4].clip.1[..28], b"Speex   1.2.0"].concat();
    let refused = |bytes: &[u8]| open(bytes).map(drop).unwrap_err().to_string();
    let cases: [(&[u8], &str); 12] = [
        (b"", "the file is empty"),
        (b"This is a letter, not a recording.\n", "looks like text"),
        ("Grüße aus Köln".as_bytes(), "looks like text"),
        (b"\x89PNG\r\n\x1a\n\0\0", "looks like a picture"),
        (b"%PDF-1.7\x80\x81", "looks like a PDF"),
        (b"PK\x03\x04\x14\0", "looks like an archive"),
        (&[0; 64], "looks like zeros"),
        (&[0x80, 0x91, 3, 4, 5, 6], "headerless audio"),
        (b"FORM\0\0\0\x20AIFF", "an AIFF file is not supported"),
        (b"#!AMR\n", "an AMR file is not supported"),
        (&speex, "Speex audio is not supported"),
        (clip!("clip.adpcm.wav").1, "ADPCM inside is not supported"),
    ];
    for (bytes, text) in cases {
        let error = refused(bytes);
        assert!(error.contains(text), "{error}");
        assert!(
            text == "the file is empty" || error.contains("FLAC"),
            "what to send instead: {error}"
        );
    }
}

#[test]
fn limits_hold() {
    let refuse = |bytes: &[u8], limits: DecodeLimits, selection| {
        let mut audio = AudioFile::from_bytes(bytes.to_vec(), limits, selection)?;
        let mut samples = Vec::new();
        while audio.next_block(&mut samples)? {}
        Ok(samples.len())
    };
    let limits = DecodeLimits::default();
    for expected in &CLIPS {
        let (name, bytes) = expected.clip;
        let too_long = DecodeLimits {
            max_duration: Duration::from_millis(400),
            ..limits.clone()
        };
        let error = refuse(bytes, too_long.clone(), ChannelSelection::Mix);
        assert_eq!(
            error,
            Err(ContainerError::TooLong {
                max: too_long.max_duration
            }),
            "{name}"
        );
        let too_large = DecodeLimits {
            max_bytes: bytes.len() as u64 - 1,
            ..limits.clone()
        };
        let error = refuse(bytes, too_large.clone(), ChannelSelection::Mix);
        assert_eq!(
            error,
            Err(ContainerError::TooManyBytes {
                max_bytes: too_large.max_bytes
            }),
            "{name}"
        );
        let late = DecodeLimits {
            deadline: Some(Instant::now()),
            ..limits.clone()
        };
        assert_eq!(
            refuse(bytes, late, ChannelSelection::Mix),
            Err(ContainerError::TimedOut),
            "{name}"
        );
        let (chosen, channels) = (expected.channels, expected.channels);
        let error = refuse(bytes, limits.clone(), ChannelSelection::One(chosen));
        assert_eq!(
            error,
            Err(ContainerError::NoSuchChannel { chosen, channels }),
            "{name}"
        );
        assert_eq!(
            refuse(bytes, limits.clone(), ChannelSelection::One(chosen - 1)),
            Ok(expected.samples),
            "{name}"
        );
        if expected.channels > 1 {
            let mono = DecodeLimits {
                max_channels: 1,
                ..limits.clone()
            };
            let error = refuse(bytes, mono, ChannelSelection::Mix);
            assert_eq!(
                error,
                Err(ContainerError::TooManyChannels {
                    actual: channels,
                    max: 1
                }),
                "{name}"
            );
        }
    }
    let small = DecodeLimits {
        max_packet_samples: 1_000,
        ..limits
    };
    let error = refuse(clip!("clip.flac").1, small, ChannelSelection::Mix);
    assert!(
        matches!(error, Err(ContainerError::PacketTooLarge { max: 1_000, .. })),
        "{error:?}"
    );
}

#[test]
fn a_stream_is_read_to_its_end_or_to_the_limit() {
    let limits = DecodeLimits {
        max_bytes: 20_000,
        ..DecodeLimits::default()
    };
    let mut audio = AudioFile::from_stream(SOURCE.1, limits.clone(), ChannelSelection::Mix).unwrap();
    assert_eq!(decode(&mut audio).len(), 8_000);
    let endless = io::repeat(b'R');
    let error = AudioFile::from_stream(endless, limits, ChannelSelection::Mix).map(drop);
    assert_eq!(error, Err(ContainerError::TooManyBytes { max_bytes: 20_000 }));
}

/// A disk that fails in the middle is an error, never a shorter recording.
#[test]
fn a_read_that_fails_is_said() {
    struct Failing(Cursor<&'static [u8]>);
    impl Read for Failing {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.0.position() {
                position if position < 2_000 => self.0.read(buffer.split_at_mut(buffer.len().min(500)).0),
                _ => Err(io::Error::other("the disk is gone")),
            }
        }
    }
    impl Seek for Failing {
        fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
            self.0.seek(position)
        }
    }
    for clip in [SOURCE, clip!("clip.flac"), clip!("clip.44100.mp3")] {
        let opened = AudioFile::open(
            Failing(Cursor::new(clip.1)),
            DecodeLimits::default(),
            ChannelSelection::Mix,
        );
        let ending = opened.and_then(|mut audio| {
            let mut samples = Vec::new();
            while audio.next_block(&mut samples)? {}
            Ok(samples.len())
        });
        assert_eq!(
            ending,
            Err(ContainerError::Io {
                reason: "the disk is gone".to_owned()
            }),
            "{}",
            clip.0
        );
    }
}
