//! The csr spectrogram against what the original computes (`tests/golden/csr.py`).

use std::path::PathBuf;

use safetensors::SafeTensors;

use super::{CsrSpectrogram, CsrSpectrogramConfig, FeatureConfig, FeatureExtractor};

const RATE: u32 = 16_000;
const COUNTS: [usize; 6] = [1, 200, 320, 321, 1_600, 2_050];

fn golden(name: &str, file: &[u8]) -> Vec<f32> {
    let file = SafeTensors::deserialize(file).unwrap();
    let values = file.tensor(name).unwrap().data().as_chunks::<4>().0.iter();
    values.map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn file() -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/csr.safetensors");
    std::fs::read(path).unwrap()
}

fn extractor() -> CsrSpectrogram {
    CsrSpectrogram::new(&CsrSpectrogramConfig::default(), RATE).unwrap()
}

#[test]
fn whole_files_equal_the_original() {
    let file = file();
    let mut worst = 0f32;
    for count in COUNTS {
        let (samples, expected) = (
            golden(&format!("samples{count}"), &file),
            golden(&format!("spectrogram{count}"), &file),
        );
        assert_eq!(samples.len(), count);
        let mut features = Vec::new();
        let mut extractor = extractor();
        extractor.push(&samples, &mut features);
        extractor.finish(&mut features);
        assert_eq!(features.len(), expected.len(), "{count} samples");
        for (found, expected) in features.iter().zip(&expected) {
            worst = worst.max((found - expected).abs());
            // Values reach 72: one step of f32 there is 8e-6.
            assert!((found - expected).abs() <= 1e-5, "{found} {expected}");
        }
    }
    println!("csr spectrogram: at most {worst:.1e} from the original");
}

#[test]
fn any_split_gives_the_same_frames_and_says_what_it_needs() {
    let samples = golden("samples2050", &file());
    let mut whole = Vec::new();
    extractor().push(&samples, &mut whole);
    for chunk in [1, 7, 160, 333] {
        let mut extractor = extractor();
        let mut features = Vec::new();
        for part in samples.chunks(chunk) {
            let needed = extractor.samples_needed_for(1);
            let before = extractor.frames_emitted();
            extractor.push(part, &mut features);
            assert_eq!(extractor.frames_emitted() > before, part.len() as u64 >= needed);
        }
        assert_eq!(features, whole);
        assert_eq!(extractor.samples_received(), 2_050);
        extractor.reset();
        features.clear();
        extractor.push(&samples, &mut features);
        assert_eq!(features, whole, "after a reset");
    }
}

#[test]
fn silence_is_the_floor_and_the_scale_is_an_offset() {
    let mut silence = Vec::new();
    extractor().push(&[0.0; 320], &mut silence);
    assert!(
        silence.iter().all(|value| (value + 72.087_31).abs() < 1e-3),
        "{silence:?}"
    );
    let samples = golden("samples320", &file());
    let scaled = FeatureConfig::CsrSpectrogram(CsrSpectrogramConfig {
        input_scale: 32_768.0,
        ..CsrSpectrogramConfig::default()
    });
    let (mut plain, mut large) = (Vec::new(), Vec::new());
    extractor().push(&samples, &mut plain);
    scaled.extractor(RATE).unwrap().push(&samples, &mut large);
    for (plain, large) in plain.iter().zip(&large) {
        assert!((large - plain - 41.588_83).abs() < 1e-3);
    }
    let error = scaled.extractor(48_000).err().unwrap().to_string();
    assert!(error.contains("16000"), "{error}");
}
