use proptest::prelude::*;

use super::*;

fn decode(encoding: Encoding, channels: u16, selection: ChannelSelection, pieces: &[&[u8]]) -> Vec<f32> {
    let mut decoder = PcmDecoder::new(encoding, channels, selection).unwrap();
    let mut samples = Vec::new();
    for piece in pieces {
        decoder.push(piece, &mut samples);
    }
    samples
}

#[test]
fn names_round_trip_and_unknown_ones_list_what_is_known() {
    for encoding in Encoding::ALL {
        assert_eq!(encoding.to_string().parse(), Ok(encoding));
    }
    let error = "opus".parse::<Encoding>().unwrap_err().to_string();
    assert!(
        Encoding::ALL
            .iter()
            .all(|encoding| error.contains(encoding.name())),
        "{error}"
    );
}

#[test]
fn integers_and_floats_have_full_scale_one() {
    let mono = |encoding, bytes: &[u8]| decode(encoding, 1, ChannelSelection::Mix, &[bytes]);
    assert_eq!(
        mono(Encoding::S16le, &[0, 0x80, 0xFF, 0x7F]),
        [-1.0, 32_767.0 / 32_768.0]
    );
    assert_eq!(mono(Encoding::S32le, &i32::MIN.to_le_bytes()), [-1.0]);
    assert_eq!(mono(Encoding::F32le, &0.25f32.to_le_bytes()), [0.25]);
}

#[test]
fn g711_codes_have_the_values_of_the_recommendation() {
    // ITU-T G.711 decision values, as 16-bit samples: ends, middles and signs.
    for (code, value) in [
        (0x00, -32_124),
        (0x80, 32_124),
        (0x7F, 0),
        (0xFF, 0),
        (0xEF, 132),
        (0x9F, 8_316),
    ] {
        assert_eq!(mulaw_to_i16(code), value, "µ-law {code:#04x}");
    }
    for (code, value) in [
        (0x55, -8),
        (0xD5, 8),
        (0x2A, -32_256),
        (0xAA, 32_256),
        (0x45, -264),
        (0xC5, 264),
    ] {
        assert_eq!(alaw_to_i16(code), value, "A-law {code:#04x}");
    }
    // All 256 codes, against CPython's audioop.
    let fold = |decode: fn(u8) -> i16| {
        (0..=255).fold(0u32, |sum, code| {
            sum.wrapping_mul(31).wrapping_add(u32::from(decode(code) as u16))
        })
    };
    assert_eq!(
        (fold(mulaw_to_i16), fold(alaw_to_i16)),
        (2_256_732_160, 67_108_864)
    );
    let mut mulaw: Vec<i16> = (0..=255).map(mulaw_to_i16).collect();
    mulaw.sort_unstable();
    mulaw.dedup();
    assert_eq!(mulaw.len(), 255, "only the two zeros coincide");
}

#[test]
fn non_finite_floats_become_zero_and_are_counted() {
    let mut decoder = PcmDecoder::new(Encoding::F32le, 1, ChannelSelection::Mix).unwrap();
    let values = [1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1e30];
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let mut samples = Vec::new();
    decoder.push(&bytes, &mut samples);
    assert_eq!(samples, [1.0, 0.0, 0.0, 0.0, -MAX_MAGNITUDE]);
    assert_eq!(decoder.non_finite_replaced(), 3);
}

#[test]
fn channels_are_mixed_or_one_is_chosen() {
    let bytes: Vec<u8> = [8_192i16, -16_384, 24_576, 0]
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    assert_eq!(
        decode(Encoding::S16le, 2, ChannelSelection::Mix, &[&bytes]),
        [-0.125, 0.375]
    );
    assert_eq!(
        decode(Encoding::S16le, 2, ChannelSelection::One(0), &[&bytes]),
        [0.25, 0.75]
    );
    assert_eq!(
        decode(Encoding::S16le, 2, ChannelSelection::One(1), &[&bytes]),
        [-0.5, 0.0]
    );
}

#[test]
fn impossible_channels_are_refused() {
    let make = |channels, selection| PcmDecoder::new(Encoding::S16le, channels, selection).map(drop);
    assert_eq!(
        make(0, ChannelSelection::Mix),
        Err(FrontendError::ChannelsOutOfRange {
            actual: 0,
            max: MAX_CHANNELS
        })
    );
    assert_eq!(
        make(9, ChannelSelection::Mix),
        Err(FrontendError::ChannelsOutOfRange {
            actual: 9,
            max: MAX_CHANNELS
        })
    );
    assert_eq!(
        make(2, ChannelSelection::One(2)),
        Err(FrontendError::NoSuchChannel {
            chosen: 2,
            channels: 2
        })
    );
}

proptest! {
    /// I1 and I9: the split of the bytes never shows, and every byte is decoded or pending.
    #[test]
    fn any_split_of_the_bytes_gives_the_same_samples(
        bytes in prop::collection::vec(any::<u8>(), 0..600),
        cuts in prop::collection::vec(0usize..600, 0..12),
        encoding in prop::sample::select(Encoding::ALL.to_vec()),
        channels in 1u16..=8,
        chosen in prop::option::of(0u16..8),
    ) {
        let selection = match chosen {
            Some(index) if index < channels => ChannelSelection::One(index),
            _ => ChannelSelection::Mix,
        };
        let whole = decode(encoding, channels, selection, &[&bytes]);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let mut decoder = PcmDecoder::new(encoding, channels, selection).unwrap();
        let mut samples = Vec::new();
        for cut in cuts.windows(2) {
            decoder.push(&bytes[cut[0]..cut[1]], &mut samples);
        }
        prop_assert_eq!(bits(&samples), bits(&whole));
        prop_assert_eq!(samples.len() * decoder.frame_bytes() + decoder.pending_bytes(), bytes.len());
        prop_assert!(samples.iter().all(|sample| sample.is_finite()));
    }
}

fn bits(samples: &[f32]) -> Vec<u32> {
    samples.iter().map(|sample| sample.to_bits()).collect()
}
