use proptest::prelude::*;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use super::*;
use crate::container::{AudioFile, DecodeLimits};
use crate::pcm::ChannelSelection;

const RATE_HZ: u32 = 16_000;
/// Reference features, by `tests/golden/frontend/make_features.py`.
const GOLDEN: &[u8] = include_bytes!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../tests/golden/frontend/features.safetensors"
));
const SOURCE: &[u8] = include_bytes!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../tests/golden/frontend/source.wav"
));

fn source() -> Vec<f32> {
    let mut audio = AudioFile::from_bytes(SOURCE, DecodeLimits::default(), ChannelSelection::Mix).unwrap();
    let mut samples = Vec::new();
    while audio.next_block(&mut samples).unwrap() {}
    samples
}

fn extract(config: &FeatureConfig, samples: &[f32]) -> Vec<f32> {
    let mut features = Vec::new();
    config.extractor(RATE_HZ).unwrap().push(samples, &mut features);
    features
}

fn values(tensor: &TensorView<'_>) -> Vec<f32> {
    let (values, _) = tensor.data().as_chunks::<4>();
    values.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

fn worst(actual: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(actual.len(), expected.len());
    actual
        .iter()
        .zip(expected)
        .map(|(actual, expected)| (actual - expected).abs())
        .fold(0.0, f32::max)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Configurations that between them reach every branch of the extractors.
fn configurations() -> Vec<FeatureConfig> {
    let cmvn = Cmvn {
        mean: (0..400).map(|index| index as f32 / 40.0).collect(),
        inv_stddev: vec![0.25; 400],
    };
    let fbank = KaldiFbankConfig::default();
    vec![
        FeatureConfig::default(),
        FeatureConfig::StreamingLogMel(StreamingLogMelConfig {
            n_fft: 256,
            hop: 400,
            left_padding: 0,
            ..Default::default()
        }),
        FeatureConfig::StreamingLogMel(StreamingLogMelConfig {
            lfr: Some(LfrConfig { stack: 7, stride: 4 }),
            ..Default::default()
        }),
        FeatureConfig::KaldiFbank(fbank.clone()),
        FeatureConfig::KaldiFbank(KaldiFbankConfig {
            snip_edges: false,
            use_energy: true,
            ..fbank.clone()
        }),
        FeatureConfig::KaldiFbank(KaldiFbankConfig {
            snip_edges: false,
            frame_length_ms: 10.0,
            frame_shift_ms: 25.0,
            ..fbank.clone()
        }),
        FeatureConfig::KaldiFbank(KaldiFbankConfig {
            lfr: Some(LfrConfig { stack: 5, stride: 1 }),
            cmvn: Some(cmvn),
            ..fbank.clone()
        }),
        FeatureConfig::KaldiFbank(KaldiFbankConfig {
            lfr: Some(LfrConfig { stack: 7, stride: 6 }),
            ..fbank.clone()
        }),
        FeatureConfig::KaldiFbank(KaldiFbankConfig {
            lfr: Some(LfrConfig { stack: 2, stride: 5 }),
            ..fbank
        }),
    ]
}

#[test]
fn streaming_log_mel_equals_the_reference() {
    let golden = SafeTensors::deserialize(GOLDEN).unwrap();
    let expected = values(&golden.tensor("log_mel").unwrap());
    let worst = worst(&extract(&FeatureConfig::default(), &source()), &expected);
    assert!(worst < 1e-4, "off by {worst}");
}

#[test]
fn kaldi_fbank_equals_kaldi_native_fbank() {
    let golden = SafeTensors::deserialize(GOLDEN).unwrap();
    let (_, header) = SafeTensors::read_metadata(GOLDEN).unwrap();
    let options = header.metadata().as_ref().unwrap();
    assert_eq!(options.len(), 10);
    for (name, json) in options {
        let mut json: serde_json::Value = serde_json::from_str(json).unwrap();
        let frames = json
            .as_object_mut()
            .unwrap()
            .remove("frames")
            .unwrap()
            .as_u64()
            .unwrap();
        let config: FeatureConfig = serde_json::from_value(json).unwrap();
        let actual = extract(&config, &source());
        let num_features = config.num_features();
        assert_eq!(actual.len(), frames as usize * num_features, "{name}");
        // The file has the first three frames, and every third from there.
        let kept: Vec<f32> = actual
            .chunks(num_features)
            .enumerate()
            .filter(|(index, _)| *index < 3 || index % 3 == 0)
            .flat_map(|(_, frame)| frame.to_vec())
            .collect();
        let worst = worst(&kept, &values(&golden.tensor(name).unwrap()));
        assert!(worst < 1e-3, "{name}: off by {worst}");
    }
}

#[test]
fn settings_are_read_by_name_and_unknown_ones_refused() {
    let read = |json: &str| serde_json::from_str::<FeatureConfig>(json);
    let config = read(
        r#"{"type": "streaming_log_mel", "num_mels": 80, "n_fft": 400, "hop": 160, "left_padding": 200, "log_floor": 1e-7}"#,
    );
    assert_eq!(config.unwrap(), FeatureConfig::default());
    assert!(read(r#"{"type": "streaming_log_mel", "mels": 80}"#).is_err());
    assert!(read(r#"{"type": "kaldi_fbank", "preemph_coeff": 0.9}"#).is_err());
    assert!(read(r#"{"type": "mfcc"}"#).is_err());
    for config in configurations() {
        assert_eq!(read(&serde_json::to_string(&config).unwrap()).unwrap(), config);
    }
}

#[test]
fn settings_that_cannot_work_are_named() {
    let log_mel = StreamingLogMelConfig::default();
    let fbank = KaldiFbankConfig::default();
    let cases: [(&str, FeatureConfig); 7] = [
        (
            "hop",
            FeatureConfig::StreamingLogMel(StreamingLogMelConfig {
                hop: 0,
                ..log_mel.clone()
            }),
        ),
        (
            "left_padding",
            FeatureConfig::StreamingLogMel(StreamingLogMelConfig {
                left_padding: 400,
                ..log_mel.clone()
            }),
        ),
        (
            "log_floor",
            FeatureConfig::StreamingLogMel(StreamingLogMelConfig {
                log_floor: f32::NAN,
                ..log_mel
            }),
        ),
        (
            "dither",
            FeatureConfig::KaldiFbank(KaldiFbankConfig {
                dither: 1.0,
                ..fbank.clone()
            }),
        ),
        (
            "high_freq",
            FeatureConfig::KaldiFbank(KaldiFbankConfig {
                high_freq: 9_000.0,
                ..fbank.clone()
            }),
        ),
        (
            "lfr.stride",
            FeatureConfig::KaldiFbank(KaldiFbankConfig {
                lfr: Some(LfrConfig { stack: 5, stride: 0 }),
                ..fbank.clone()
            }),
        ),
        (
            "mean",
            FeatureConfig::KaldiFbank(KaldiFbankConfig {
                cmvn: Some(Cmvn {
                    mean: vec![0.0; 3],
                    inv_stddev: vec![1.0; 80],
                }),
                ..fbank
            }),
        ),
    ];
    for (field, config) in cases {
        let error = config.extractor(RATE_HZ).map(drop).unwrap_err().to_string();
        assert!(error.contains(&format!("`{field}`")), "{error}");
    }
}

#[test]
fn kaldi_normalisation_text_is_read() {
    let text = "<Nnet> \n<Splice> 3 3 \n[ 0 ]\n<AddShift> 3 3 \n<LearnRateCoef> 0 [ -1.5 2 3e-1 ]\n\
                <Rescale> 3 3 \n<LearnRateCoef> 0 [ 0.5 1 2 ]\n</Nnet>";
    let cmvn = Cmvn::from_kaldi_text(text).unwrap();
    assert_eq!(
        cmvn,
        Cmvn {
            mean: vec![1.5, -2.0, -0.3],
            inv_stddev: vec![0.5, 1.0, 2.0]
        }
    );
    let mut features = [2.5, 0.0, 0.7, 1.5, -2.0, -0.3];
    cmvn.apply(&mut features);
    assert_eq!(features, [0.5, 2.0, 2.0, 0.0, 0.0, 0.0]);
    for (broken, reason) in [
        ("<AddShift> [ 1 2 ]", "<Rescale>"),
        ("<AddShift> [ 1 2 ] <Rescale> [ 1 ]", "1 values, expected 2"),
        ("<AddShift> [ 1 x ] <Rescale> [ 1 1 ]", "\"x\""),
        ("<AddShift> [ 1 nan ] <Rescale> [ 1 1 ]", "not finite"),
        ("<AddShift> <A> <B> [ 1 ] <Rescale> [ 1 ]", "<AddShift>"),
    ] {
        let error = Cmvn::from_kaldi_text(broken).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

/// Five frames side by side, the first one twice more in front, every second frame.
#[test]
fn frames_are_stacked_from_a_repeated_first_one() {
    let mut stacker = FrameStacker::new(LfrConfig { stack: 5, stride: 2 }, 1).unwrap();
    let mut out = Vec::new();
    assert_eq!(stacker.frames_needed_for(2), 5);
    stacker.push(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0], &mut out);
    assert_eq!(out, [0.0, 0.0, 0.0, 1.0, 2.0, 0.0, 1.0, 2.0, 3.0, 4.0]);
    assert_eq!(stacker.frames_needed_for(1), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// I1, I4 and exact needs, for every extractor.
    #[test]
    fn extractors_keep_the_laws(
        config in prop::sample::select(configurations()),
        length in 0usize..9_000,
        cuts in prop::collection::vec(0usize..9_000, 0..20),
        frames in 1u64..30,
    ) {
        let samples: Vec<f32> = (0..length).map(|index| ((index * index) % 977) as f32 / 977.0 - 0.5).collect();
        let whole = extract(&config, &samples);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(length)).collect();
        cuts.extend([0, length]);
        cuts.sort_unstable();
        let mut extractor = config.extractor(RATE_HZ).unwrap();
        let most = extractor.max_state_bytes();
        prop_assert!(extractor.state_bytes() <= most);
        for _ in 0..2 {
            let mut split = Vec::new();
            for cut in cuts.windows(2) {
                extractor.push(&samples[cut[0]..cut[1]], &mut split);
            }
            prop_assert_eq!(bits(&split), bits(&whole));
            prop_assert_eq!(extractor.samples_received(), length as u64);
            prop_assert_eq!(extractor.frames_emitted() as usize * config.num_features(), split.len());
            let before = extractor.frames_emitted();
            let needed = extractor.samples_needed_for(frames);
            prop_assert!(needed > 0);
            extractor.push(&vec![0.25; needed as usize - 1], &mut split);
            prop_assert!(extractor.frames_emitted() < before + frames);
            extractor.push(&[0.25], &mut split);
            prop_assert_eq!(extractor.frames_emitted(), before + frames);
            prop_assert_eq!(extractor.state_bytes(), most);
            prop_assert_eq!(extractor.max_state_bytes(), most);
            extractor.push(&[f32::NAN; 333], &mut split);
            extractor.reset();
        }
    }
}
