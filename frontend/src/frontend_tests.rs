use proptest::prelude::*;

use super::*;
use crate::pcm::{ChannelSelection, Encoding, PcmDecoder};

const RATES_HZ: [u32; 9] = [
    8_000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000, 96_000, 12_345,
];

fn frontend(input_rate_hz: u32) -> Frontend {
    let features = FeatureConfig::default();
    Frontend::new(FrontendConfig {
        input_rate_hz,
        model_rate_hz: 16_000,
        features,
    })
    .unwrap()
}

/// Noise from a seed: every frame of it is different.
fn noise(seed: u64, samples: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / 8_388_608.0 - 1.0
    };
    (0..samples).map(|_| next()).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Sessions move between threads: a worker takes the front end along.
#[test]
fn everything_can_be_sent_to_a_worker() {
    fn sendable<T: Send>() {}
    sendable::<Frontend>();
    sendable::<PcmDecoder>();
    sendable::<crate::container::AudioFile>();
}

#[test]
fn silence_is_the_floor() {
    let mut features = Vec::new();
    frontend(16_000).push_silence(16_000, &mut features);
    assert_eq!(features.len(), 80 * 99);
    assert!(features.iter().all(|&value| value == (-7.0 + 4.0) / 4.0));
}

#[test]
fn virtual_silence_equals_pushed_zeros() {
    for rate_hz in RATES_HZ {
        let (mut one, mut other) = (frontend(rate_hz), frontend(rate_hz));
        let (mut silent, mut zeros) = (Vec::new(), Vec::new());
        one.push(&noise(1, 3_000), &mut silent);
        one.push_silence(20_000, &mut silent);
        other.push(&noise(1, 3_000), &mut zeros);
        other.push(&vec![0.0; 20_000], &mut zeros);
        assert_eq!(bits(&silent), bits(&zeros));
        assert_eq!(one.samples_received(), 23_000);
    }
}

/// The counters of a stream that has run for days, and the buffers of one that has not.
#[test]
fn counters_pass_u32_max_without_a_change() {
    let samples = noise(7, 48_000);
    let (mut fresh, mut old) = (frontend(48_000), frontend(48_000));
    old.samples_received = u64::from(u32::MAX) - 1_000;
    old.frames_emitted = u64::from(u32::MAX) - 10;
    let (mut from_fresh, mut from_old) = (Vec::new(), Vec::new());
    for piece in samples.chunks(777) {
        assert_eq!(fresh.samples_needed_for(3), old.samples_needed_for(3));
        fresh.push(piece, &mut from_fresh);
        old.push(piece, &mut from_old);
    }
    assert_eq!(bits(&from_fresh), bits(&from_old));
    assert_eq!(old.samples_received(), u64::from(u32::MAX) - 1_000 + 48_000);
    assert_eq!(
        old.frames_emitted(),
        u64::from(u32::MAX) - 10 + fresh.frames_emitted()
    );
}

#[test]
fn memory_does_not_grow() {
    for rate_hz in RATES_HZ {
        let mut frontend = frontend(rate_hz);
        let most = frontend.max_state_bytes();
        assert!(
            frontend.state_bytes() < most / 4,
            "{rate_hz} Hz: {}",
            frontend.state_bytes()
        );
        let mut features = Vec::new();
        for _ in 0..20 {
            frontend.push_silence(u64::from(rate_hz), &mut features);
            features.clear();
            assert_eq!(frontend.state_bytes(), most, "{rate_hz} Hz");
        }
        frontend.push(&vec![0.1; 300_000], &mut features);
        assert_eq!(frontend.state_bytes(), most, "{rate_hz} Hz");
        assert_eq!(frontend.max_state_bytes(), most, "{rate_hz} Hz");
    }
}

#[test]
fn needs_are_finite_and_saturate() {
    for rate_hz in RATES_HZ {
        let frontend = frontend(rate_hz);
        assert_eq!(frontend.samples_needed_for(0), 0);
        assert!(frontend.samples_needed_for(u64::MAX) > u64::MAX / 4);
    }
    assert_eq!(frontend(48_000).samples_needed_for(u64::MAX), u64::MAX);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// I1: any split of the bytes gives bit-identical features, in every encoding, at every rate.
    #[test]
    fn any_split_of_the_bytes_gives_the_same_features(
        seed in any::<u64>(),
        length in 0usize..24_000,
        cuts in prop::collection::vec(0usize..24_000, 0..40),
        encoding in prop::sample::select(Encoding::ALL.to_vec()),
        rate_hz in prop::sample::select(RATES_HZ.to_vec()),
        channels in 1u16..=3,
    ) {
        let bytes: Vec<u8> = noise(seed, length).iter().map(|value| (value * 127.0) as i8 as u8).collect();
        let run = |cuts: &[usize]| {
            let mut decoder = PcmDecoder::new(encoding, channels, ChannelSelection::Mix).unwrap();
            let mut frontend = frontend(rate_hz);
            let (mut samples, mut features) = (Vec::new(), Vec::new());
            for cut in cuts.windows(2) {
                samples.clear();
                decoder.push(&bytes[cut[0]..cut[1]], &mut samples);
                frontend.push(&samples, &mut features);
            }
            (bits(&features), frontend.samples_received(), decoder)
        };
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(length)).collect();
        cuts.extend([0, length]);
        cuts.sort_unstable();
        let (whole, samples, _) = run(&[0, length]);
        let (split, split_samples, decoder) = run(&cuts);
        prop_assert_eq!(whole, split);
        prop_assert_eq!(samples, split_samples);
        // I9: every byte is a sample that was received, or waits.
        prop_assert_eq!(samples as usize * decoder.frame_bytes() + decoder.pending_bytes(), length);
    }

    /// The need is exact: that many samples give the frames, and one less does not.
    #[test]
    fn needs_are_exact(
        seed in any::<u64>(),
        pushes in prop::collection::vec(0usize..5_000, 0..4),
        frames in 1u64..60,
        rate_hz in prop::sample::select(RATES_HZ.to_vec()),
    ) {
        let mut frontend = frontend(rate_hz);
        let mut features = Vec::new();
        for (index, &samples) in pushes.iter().enumerate() {
            frontend.push(&noise(seed ^ index as u64, samples), &mut features);
        }
        let before = frontend.frames_emitted();
        let needed = frontend.samples_needed_for(frames);
        prop_assert!(needed > 0);
        frontend.push_silence(needed - 1, &mut features);
        prop_assert!(frontend.frames_emitted() < before + frames);
        prop_assert_eq!(frontend.samples_needed_for(before + frames - frontend.frames_emitted()), 1);
        frontend.push_silence(1, &mut features);
        prop_assert!(frontend.frames_emitted() >= before + frames);
        prop_assert_eq!(features.len() as u64, frontend.frames_emitted() * 80);
    }

    /// I4: a reset front end equals a fresh one, whatever it heard before.
    #[test]
    fn a_reset_front_end_equals_a_fresh_one(
        seed in any::<u64>(),
        poison in 0usize..9_000,
        rate_hz in prop::sample::select(RATES_HZ.to_vec()),
    ) {
        let samples = noise(seed, 9_000);
        let (mut fresh, mut used) = (frontend(rate_hz), frontend(rate_hz));
        used.push(&vec![f32::NAN; poison], &mut Vec::new());
        used.reset();
        let (mut from_fresh, mut from_used) = (Vec::new(), Vec::new());
        fresh.push(&samples, &mut from_fresh);
        used.push(&samples, &mut from_used);
        prop_assert_eq!(bits(&from_fresh), bits(&from_used));
        prop_assert_eq!(fresh.samples_received(), used.samples_received());
        prop_assert_eq!(fresh.samples_needed_for(5), used.samples_needed_for(5));
    }
}
