//! ConvNet2 against csr-pytorch. Both sides make its weights from their names: they are too large for a fixture.

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};
use waxwing_model::architecture;
use waxwing_model::config::{Config, CtcConfig, EncoderConfig};
use waxwing_model::convert::{KINDS, Options, convert_file};
use waxwing_model::encode::{Encoder, Mode};
use waxwing_model::encoder::csr::{BLANK, PHONEMES, Reference, edit_distance, error_rate};
use waxwing_model::encoder::head::CtcHead;
use waxwing_model::loader::Weights;
use waxwing_model::module;

use crate::support::{F32_TOLERANCE, F64_TOLERANCE, Golden, Scratch, Worst, config, golden_folder};

/// `noise` of `tests/golden/csr.py`.
fn noise(name: &str, count: usize) -> Vec<f32> {
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |seed, byte| {
        (seed ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    (1..=count as u64)
        .map(|index| {
            let mut z = seed.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^= z >> 31;
            (z >> 40) as f32 / (1 << 24) as f32 - 0.5
        })
        .collect()
}

/// `weight` of `tests/golden/csr.py`.
fn weight(name: &str, shape: &[usize]) -> Tensor {
    // The original's name of the head.
    let original = name.replace("head.", "fc.0.");
    let mut values = noise(&original, shape.iter().product());
    if shape.len() > 1 {
        let inputs: usize = shape[1..].iter().product();
        let scale = (4.0 / (inputs as f64).sqrt()).log2().round_ties_even().exp2() as f32;
        values.iter_mut().for_each(|value| *value *= scale);
    } else if name.ends_with("running_var") {
        values.iter_mut().for_each(|value| *value += 1.0);
    } else {
        let is_norm = name.contains(".1.") || name.contains(".module.");
        let offset = if is_norm && name.ends_with("weight") {
            1.0
        } else {
            0.0
        };
        values.iter_mut().for_each(|value| *value = *value * 0.5 + offset);
    }
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn with_head(variant: &str) -> Config {
    let mut config = config("csr-convnet", &json!({"variant": variant}));
    config.ctc = Some(CtcConfig { blank: BLANK });
    config
}

fn weights(config: &Config, dtype: DType) -> Weights {
    let expected = architecture::expected_tensors(config, Some(PHONEMES.len()));
    let tensors: HashMap<String, Tensor> = expected
        .iter()
        .map(|(name, shape)| (name.clone(), weight(name, shape).to_dtype(dtype).unwrap()))
        .collect();
    let bytes = safetensors::serialize(&tensors, None).unwrap();
    Weights::from_safetensors(&bytes, &expected).unwrap()
}

#[test]
fn every_variant_equals_the_original_alone_and_in_a_batch() {
    let golden = Golden::read("csr");
    let features = golden.tensor("features");
    let mut worst = Worst::default();
    for row in golden.table.as_array().unwrap() {
        let variant = row["variant"].as_str().unwrap();
        let config = with_head(variant);
        let EncoderConfig::CsrConvnet(sizes) = &config.encoder else {
            panic!("{:?}", config.encoder);
        };
        let parameters: usize = architecture::expected_tensors(&config, Some(PHONEMES.len()))
            .iter()
            .filter(|(name, _)| !name.contains("running_"))
            .map(|(_, shape)| shape.iter().product::<usize>())
            .sum();
        assert_eq!(parameters as u64, row["parameters"].as_u64().unwrap());
        for (kind, dtype, tolerance) in [
            ("f32", DType::F32, F32_TOLERANCE),
            ("f64", DType::F64, F64_TOLERANCE),
        ] {
            let weights = weights(&config, dtype);
            let reference = Reference::new(sizes, &weights).unwrap();
            let head = CtcHead::new(&weights).unwrap();
            let expected = golden.below(&format!("{variant}.{kind}"));
            let lengths = [37, 30, 17];
            let original = reference.forward_as_original(&features, &lengths).unwrap();
            let original = head.log_probs(&original).unwrap();
            worst.check(variant, &original, &expected["batched"], tolerance);
            let masked = head
                .log_probs(&reference.forward(&features, &lengths).unwrap())
                .unwrap();
            for (item, length) in lengths.into_iter().enumerate() {
                let own = masked.narrow(0, item, 1).unwrap();
                let own = own.narrow(1, 0, length.div_ceil(4)).unwrap();
                worst.check(variant, &own, &expected[&format!("alone{item}")], tolerance);
            }
        }
    }
    worst.report("csr");
}

/// A file of `torch.save`: the pickle is the original's own (`tests/golden/checkpoints.py`), the weights are made from their names.
fn saved_by_torch() -> Vec<u8> {
    let folder = golden_folder().join("checkpoints");
    let table = std::fs::read_to_string(folder.join("checkpoints.json")).unwrap();
    let table: Value = serde_json::from_str(&table).unwrap();
    let mut entries = vec![(
        "archive/data.pkl".to_owned(),
        std::fs::read(folder.join("csr-convnet.pkl")).unwrap(),
    )];
    for (key, row) in table["csr-convnet"].as_array().unwrap().iter().enumerate() {
        let name = row[0].as_str().unwrap();
        let shape: Vec<usize> = serde_json::from_value(row[1].clone()).unwrap();
        let bytes = if name.ends_with("num_batches_tracked") {
            vec![0; 8]
        } else {
            let values: Vec<f32> = weight(name, &shape).flatten_all().unwrap().to_vec1().unwrap();
            values.iter().flat_map(|value| value.to_le_bytes()).collect()
        };
        entries.push((format!("archive/data/{key}"), bytes));
    }
    zip(&entries)
}

/// An archive of stored entries.
fn zip(entries: &[(String, Vec<u8>)]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in entries {
        let crc = crc32(bytes).to_le_bytes();
        let (at, size) = (file.len() as u32, (bytes.len() as u32).to_le_bytes());
        let name_len = (name.len() as u16).to_le_bytes();
        // Version, flags, method, time, date; checksum, sizes, lengths of the name and of what is extra.
        let common = [&[0; 10][..], &crc, &size, &size, &name_len, &[0; 2]].concat();
        file.extend([b"PK\x03\x04", &common[..], name.as_bytes(), bytes].concat());
        let header = [
            b"PK\x01\x02\0\0",
            &common[..],
            &[0; 10],
            &at.to_le_bytes(),
            name.as_bytes(),
        ]
        .concat();
        directory.extend(header);
    }
    let count = (entries.len() as u16).to_le_bytes();
    let (at, size) = (
        (file.len() as u32).to_le_bytes(),
        (directory.len() as u32).to_le_bytes(),
    );
    [
        &file[..],
        &directory,
        b"PK\x05\x06\0\0\0\0",
        &count,
        &count,
        &size,
        &at,
        &[0; 2],
    ]
    .concat()
}

fn crc32(bytes: &[u8]) -> u32 {
    let table: Vec<u32> = (0..256u32)
        .map(|byte| (0..8).fold(byte, |value, _| (value >> 1) ^ (0xedb8_8320 * (value & 1))))
        .collect();
    !bytes.iter().fold(!0, |crc: u32, &byte| {
        table[((crc ^ u32::from(byte)) & 0xff) as usize] ^ (crc >> 8)
    })
}

#[test]
fn a_file_of_torch_save_converts_and_runs() {
    let scratch = Scratch::new("csr-file");
    let checkpoint = scratch.0.join("csr.pt");
    std::fs::write(&checkpoint, saved_by_torch()).unwrap();
    let kind = KINDS.iter().find(|kind| kind.name == "csr-convnet").unwrap();
    let model = scratch.0.join("model");
    convert_file(kind, &checkpoint, &Options::default(), &model).unwrap();
    // Its classes are spelled, so that its log-probs can be decoded.
    let tokens = std::fs::read_to_string(model.join("tokens.txt")).unwrap();
    assert_eq!(tokens.lines().take(3).collect::<Vec<_>>(), ["<blank>", "▁", "AA"]);
    assert_eq!(tokens.lines().count(), PHONEMES.len());
    let golden = Golden::read("csr");
    let inputs = BTreeMap::from([
        ("features".to_owned(), golden.tensor("features")),
        (
            "lengths".to_owned(),
            Tensor::new(&[37i64, 30, 17], &Device::Cpu).unwrap(),
        ),
    ]);
    let found = module::load(&model).unwrap().run(&inputs).unwrap();
    let mut worst = Worst::default();
    for (item, frames) in [(0, 10), (1, 8), (2, 5)] {
        let own = found["log_probs"]
            .narrow(0, item, 1)
            .unwrap()
            .narrow(1, 0, frames)
            .unwrap();
        let expected = golden.tensor(&format!("two_lstm.f32.alone{item}"));
        worst.check("two_lstm", &own, &expected, F32_TOLERANCE);
    }
}

#[test]
fn it_encodes_files_and_says_why_it_cannot_stream() {
    let config = with_head("two_lstm");
    let weights = weights(&config, DType::F32);
    let encoder = Encoder::new(&config, &weights).unwrap();
    let features = Golden::read("csr").tensor("features");
    let encoded = encoder.encode(&features, &[37, 30, 17], Mode::Whole).unwrap();
    assert_eq!(encoded.lengths, [10, 8, 5]);
    assert_eq!(encoded.log_probs.unwrap().dims(), [3, 10, 46]);
    let error = encoder
        .encode(&features, &[37, 30, 17], Mode::Streaming)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("bidirectional") && error.contains("waxwing encode"),
        "{error}"
    );
}

#[test]
fn error_rates_are_averaged_over_utterances() {
    assert_eq!(edit_distance(b"kitten", b"sitting"), 3);
    assert_eq!(edit_distance(b"", b"abc"), 3);
    assert_eq!(edit_distance(b"abc", b""), 3);
    assert_eq!(edit_distance::<u8>(b"", b""), 0);
    let pairs: [(&[u8], &[u8]); 2] = [(b"ab", b"abcd"), (b"x", b"x")];
    assert_eq!(error_rate(&pairs), Some(0.25));
    assert_eq!(error_rate::<u8>(&[(b"a", b"")]), None);
    assert_eq!(error_rate::<u8>(&[]), None);
    assert_eq!(PHONEMES.len(), 46);
    assert_eq!((PHONEMES[2], PHONEMES[45]), ("AA", "ZH"));
}
