use std::f64::consts::TAU;

use super::*;

/// A sine of `hz` at `rate_hz`, a quarter of full scale.
fn sine(hz: f64, rate_hz: u32, samples: usize) -> Vec<f32> {
    (0..samples)
        .map(|index| (0.25 * (TAU * hz * index as f64 / f64::from(rate_hz)).sin()) as f32)
        .collect()
}

fn resample(input_rate_hz: u32, output_rate_hz: u32, samples: &[f32]) -> Vec<f32> {
    let mut resampler = Resampler::new(input_rate_hz, output_rate_hz).unwrap();
    let mut out = Vec::new();
    resampler.push(samples, &mut out);
    out
}

/// Output sample n is the input's wave at n / output rate, away from the edge where the sine starts.
#[test]
fn the_delay_is_compensated_at_every_usual_rate() {
    for rate_hz in [
        8_000, 11_025, 12_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000, 176_400, 192_000,
    ] {
        let out = resample(rate_hz, 16_000, &sine(440.0, rate_hz, rate_hz as usize));
        let expected = sine(440.0, 16_000, out.len());
        // Half an output sample of a 440 Hz sine at a quarter of full scale.
        let tolerance = 0.25 * TAU * 440.0 * 0.5 / 16_000.0 + 1e-3;
        for index in 2_000..out.len() {
            let error = f64::from((out[index] - expected[index]).abs());
            assert!(error < tolerance, "{rate_hz} Hz, sample {index}: off by {error}");
        }
    }
}

/// Where a block has an even number of samples the alignment is exact, not to half a sample.
#[test]
fn even_blocks_are_aligned_exactly() {
    for rate_hz in [8_000, 24_000, 32_000, 48_000, 96_000, 192_000] {
        let out = resample(rate_hz, 16_000, &sine(1_000.0, rate_hz, rate_hz as usize / 2));
        let expected = sine(1_000.0, 16_000, out.len());
        for index in 1_000..out.len() {
            let error = (out[index] - expected[index]).abs();
            assert!(error < 1e-4, "{rate_hz} Hz, sample {index}: off by {error}");
        }
    }
}

#[test]
fn a_click_stays_where_it_was() {
    for rate_hz in [8_000u32, 44_100, 48_000] {
        let mut samples = vec![0.0; rate_hz as usize];
        samples[rate_hz as usize / 2] = 1.0;
        let out = resample(rate_hz, 16_000, &samples);
        let loudest = (0..out.len())
            .max_by(|&a, &b| out[a].abs().total_cmp(&out[b].abs()))
            .unwrap();
        assert!(loudest.abs_diff(8_000) <= 1, "{rate_hz} Hz: click at {loudest}");
    }
}

#[test]
fn what_lies_above_the_new_half_rate_is_gone() {
    let out = resample(48_000, 16_000, &sine(11_000.0, 48_000, 48_000));
    let loudest = out[1_000..]
        .iter()
        .fold(0.0f32, |loudest, sample| loudest.max(sample.abs()));
    assert!(loudest < 1e-4, "an 11 kHz tone left {loudest}");
}

/// What a telephone carries, 300 to 3400 Hz, gets through nearly whole; and most of what a wide band has.
#[test]
fn the_band_of_speech_is_kept() {
    for (rate_hz, hz) in [
        (8_000, 300.0),
        (8_000, 3_000.0),
        (8_000, 3_300.0),
        (44_100, 7_200.0),
        (48_000, 7_200.0),
    ] {
        let out = resample(rate_hz, 16_000, &sine(hz, rate_hz, rate_hz as usize));
        let middle = &out[4_000..12_000];
        let power = middle
            .iter()
            .map(|sample| f64::from(sample * sample))
            .sum::<f64>()
            / middle.len() as f64;
        let decibel = 10.0 * (power / (0.25 * 0.25 / 2.0)).log10();
        assert!(decibel.abs() < 1.5, "{hz} Hz at {rate_hz} Hz: {decibel} dB");
    }
}

#[test]
fn blocks_are_ten_milliseconds_where_the_rates_allow_it() {
    for (rate_hz, block) in [
        (8_000, 80),
        (48_000, 480),
        (44_100, 441),
        (22_050, 441),
        (11_025, 441),
        (16_000, 1),
        (12_345, 2_469),
    ] {
        assert_eq!(
            Resampler::new(rate_hz, 16_000).unwrap().block_samples(),
            block,
            "{rate_hz} Hz"
        );
    }
}

#[test]
fn rates_out_of_range_are_refused() {
    for (input, output, actual) in [(7_999, 16_000, 7_999), (192_001, 16_000, 192_001), (16_000, 0, 0)] {
        let (min, max) = (8_000, 192_000);
        let expected = FrontendError::RateOutOfRange { actual, min, max };
        assert_eq!(Resampler::new(input, output).map(drop), Err(expected));
    }
}

#[test]
fn a_reset_resampler_equals_a_fresh_one() {
    let samples = sine(300.0, 44_100, 5_000);
    let mut resampler = Resampler::new(44_100, 16_000).unwrap();
    let (mut first, mut second) = (Vec::new(), Vec::new());
    resampler.push(&samples, &mut first);
    resampler.push(&[1.0; 777], &mut Vec::new());
    resampler.reset();
    resampler.push(&samples, &mut second);
    assert_eq!(first, second);
    assert_eq!(resampler.samples_received(), samples.len() as u64);
}

/// I9: every sample that came in is in a block that went through, or waits for its block.
#[test]
fn no_sample_is_lost() {
    for rate_hz in [8_000, 11_025, 44_100, 48_000, 12_345] {
        let mut resampler = Resampler::new(rate_hz, 16_000).unwrap();
        let mut out = Vec::new();
        for length in [1, 79, 4_000, 0, 441, 12_345, 7] {
            resampler.push(&vec![0.5; length], &mut out);
            let blocks = resampler.samples_received() / resampler.block_samples() as u64;
            let through = blocks * resampler.block_samples() as u64;
            assert_eq!(
                resampler.samples_received(),
                through + resampler.samples_buffered() as u64
            );
            let whole = blocks * (resampler.block_samples() as u64 * 16_000 / u64::from(rate_hz));
            assert_eq!(
                resampler.samples_emitted(),
                whole.saturating_sub(resampler.delay_samples() as u64)
            );
            assert_eq!(out.len() as u64, resampler.samples_emitted());
        }
    }
}

/// Needs and delays are told before rubato's resampler exists, so they must be its own, at rates that share much or nothing.
#[test]
fn blocks_and_delays_are_those_of_rubato() {
    let usual = [
        8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000, 176_400,
        192_000,
    ];
    let others = (8_000..=192_000).step_by(7_919);
    for rate_hz in usual.into_iter().chain(others) {
        for model_rate_hz in [8_000, 16_000] {
            if rate_hz == model_rate_hz {
                continue;
            }
            let blocks = Blocks::new(rate_hz, model_rate_hz);
            let fft = fft(rate_hz, model_rate_hz).unwrap();
            let theirs = (fft.fft_size_in(), fft.fft_size_out());
            assert_eq!((blocks.block_in, blocks.block_out), theirs, "{rate_hz} Hz");
            assert_eq!(
                (fft.input_frames_next(), fft.output_frames_next()),
                theirs,
                "{rate_hz} Hz"
            );
            // rubato halves the output's block, whatever the input's odd sample is worth.
            assert!(blocks.delay.abs_diff(fft.output_delay()) <= 1, "{rate_hz} Hz");
        }
    }
}

#[test]
fn tables_come_with_the_first_sample() {
    for (rate_hz, has_tables) in [(8_000, true), (16_000, false), (44_100, true), (48_000, true)] {
        let mut resampler = Resampler::new(rate_hz, 16_000).unwrap();
        resampler.push(&[], &mut Vec::new());
        assert_eq!(resampler.state_bytes(), size_of::<Resampler>(), "{rate_hz} Hz");
        assert_eq!(
            resampler.max_state_bytes() > resampler.state_bytes(),
            has_tables,
            "{rate_hz} Hz"
        );
        let needed = resampler.samples_needed_for(1);
        resampler.push(&[0.5], &mut Vec::new());
        let missing = needed - u64::from(has_tables);
        assert_eq!(resampler.samples_needed_for(1), missing, "{rate_hz} Hz");
        assert_eq!(
            resampler.state_bytes(),
            resampler.max_state_bytes(),
            "{rate_hz} Hz"
        );
    }
}
