//! Mutated files: whatever the bytes are, opening and decoding end, within the limits, without a panic of ours.

use super::tests::{CLIPS, SOURCE};
use super::*;

const MUTATIONS_PER_CLIP: u64 = 250;

/// A small generator, so that a failure names the seed that shows it again.
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut value = self.0;
        value = (value ^ value >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        value = (value ^ value >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((value ^ value >> 31) % below.max(1) as u64) as usize
    }
}

fn mutate(clip: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = clip.to_vec();
    // Headers are short and matter most: half of the changes go there.
    for _ in 0..1 + random.next(8) {
        let reach = if random.next(2) == 0 {
            bytes.len().min(300)
        } else {
            bytes.len()
        };
        let at = random.next(reach);
        let Some(byte) = bytes.get_mut(at) else { break };
        match random.next(6) {
            0 => *byte = random.next(256) as u8,
            1 => *byte ^= 1 << random.next(8),
            2 => *byte = [0x00, 0xFF, 0x7F, 0x80][random.next(4)],
            3 => {
                let end = (at + 4).min(bytes.len());
                bytes[at..end].fill([0x00, 0xFF][random.next(2)]);
            }
            4 => bytes.truncate(at.max(1)),
            _ => {
                let from = random.next(clip.len());
                let piece = clip[from..(from + random.next(64)).min(clip.len())].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }
    bytes
}

#[test]
fn mutated_files_end_within_the_limits() {
    let max_duration = Duration::from_secs(20);
    let (mut opened, mut decoded) = (0, 0);
    for expected in &CLIPS {
        for seed in 0..MUTATIONS_PER_CLIP {
            let bytes = mutate(expected.clip.1, &mut Random(seed));
            let deadline = Some(Instant::now() + Duration::from_secs(10));
            let limits = DecodeLimits {
                max_duration,
                deadline,
                ..DecodeLimits::default()
            };
            let started = Instant::now();
            let result = std::panic::catch_unwind(|| {
                let mut audio = AudioFile::from_bytes(bytes, limits, ChannelSelection::Mix)?;
                let (mut samples, mut total) = (Vec::new(), 0);
                while audio.next_block(&mut samples)? {
                    assert!(samples.iter().all(|sample| sample.is_finite()));
                    assert!(!samples.is_empty() && samples.len() <= 1 << 20);
                    total += samples.len();
                    samples.clear();
                }
                assert!(total as f64 <= max_duration.as_secs_f64() * f64::from(audio.rate_hz()));
                Ok::<_, ContainerError>(total)
            });
            let name = expected.clip.0;
            assert!(
                started.elapsed() < Duration::from_secs(5),
                "{name}, seed {seed}: {:?}",
                started.elapsed()
            );
            match result {
                Ok(Ok(_)) => (opened, decoded) = (opened + 1, decoded + 1),
                Ok(Err(error)) => {
                    opened += 1;
                    assert!(!error.to_string().is_empty());
                    assert_ne!(error, ContainerError::TimedOut, "{name}, seed {seed}");
                }
                Err(_) => panic!("{name}, seed {seed}: a panic of our own"),
            }
        }
    }
    // The mutations reach past the headers: many files still decode, and many do not.
    assert_eq!(opened, CLIPS.len() as u64 * MUTATIONS_PER_CLIP);
    assert!(
        decoded > opened / 5 && decoded < opened,
        "{decoded} of {opened} decoded"
    );
}

#[test]
fn every_cut_of_a_small_wav_ends() {
    for end in 0..200 {
        if let Ok(mut audio) =
            AudioFile::from_bytes(&SOURCE.1[..end], DecodeLimits::default(), ChannelSelection::Mix)
        {
            assert!(
                audio.truncated() && audio.next_block(&mut Vec::new()) == Ok(true),
                "{end}"
            );
        } else {
            assert!(end < 46, "{end}");
        }
    }
}
