//! SkiM: LSTMs over short segments whose states skip from segment to segment through LSTMs of their own.
//!
//! C. Li et al., *SkiM: Skipping Memory LSTM for Low-Latency Real-Time Continuous Speech Separation* (2022), as in
//! `espnet2.enh.layers.skim` (release 202511, Apache-2), whose tensor names are kept. [`Reference`] in Candle operations
//! has every variant; [`Skim`] on plain slices serves the causal ones live, each session with its own segment borders.
//! [`MemLstm`] and [`SegLstm`] are the two parts.

mod config;
mod parts;
mod reference;
mod serving;

pub use config::{MemLstmConfig, MemType, NormType, SegLstmConfig, SkimConfig};
pub use parts::{MemLstm, SegLstm, States};
pub use reference::Reference;
pub use serving::Skim;

use crate::encoder::Geometry;
use crate::encoder::recurrent::scan::Kind;
use crate::loader::Expected;

/// Added to variances before their root: the smallest step of `f32` at 1.
pub(crate) const NORM_EPSILON: f64 = f32::EPSILON as f64;

/// Tensors of an LSTM `{prefix}{lstm}.*` with a projection `{prefix}proj.*` to `outputs`.
fn lstm_tensors(
    prefix: &str,
    lstm: &str,
    (inputs, hidden, outputs): (usize, usize, usize),
    directions: usize,
) -> Vec<Expected> {
    let mut expected = Vec::new();
    for direction in 0..directions {
        expected.extend(Kind::Lstm.expected_tensors((inputs, hidden), true, |part| {
            lstm_name(prefix, lstm, part, direction)
        }));
    }
    expected.push((format!("{prefix}proj.weight"), vec![outputs, hidden * directions]));
    expected.push((format!("{prefix}proj.bias"), vec![outputs]));
    expected
}

fn lstm_name(prefix: &str, lstm: &str, part: &str, direction: usize) -> String {
    let suffix = if direction == 1 { "_reverse" } else { "" };
    format!("{prefix}{lstm}.{part}_l0{suffix}")
}

fn norm_tensors(prefix: &str, width: usize) -> [Expected; 2] {
    ["gamma", "beta"].map(|part| (format!("{prefix}.{part}"), vec![1, width, 1]))
}

/// Every tensor of a SegLSTM with its shape, names beginning with `prefix`.
pub fn segment_tensors(config: &SegLstmConfig, prefix: &str) -> Vec<Expected> {
    let sizes = (config.input_size, config.hidden_size, config.input_size);
    let mut expected = lstm_tensors(prefix, "lstm", sizes, config.directions());
    expected.extend(norm_tensors(&format!("{prefix}norm"), config.input_size));
    expected
}

/// Every tensor of a MemLSTM with its shape, names beginning with `prefix`.
pub fn memory_tensors(config: &MemLstmConfig, prefix: &str) -> Vec<Expected> {
    let width = config.hidden_size * config.directions();
    let mut expected = Vec::new();
    let nets = [
        ("h", config.mem_type.has_hidden()),
        ("c", config.mem_type.has_cell()),
    ];
    for (state, _) in nets.into_iter().filter(|(_, present)| *present) {
        let sizes = (width, config.hidden_size, width);
        let net = format!("{prefix}{state}_net.");
        expected.extend(lstm_tensors(&net, "rnn", sizes, config.directions()));
        expected.extend(norm_tensors(&format!("{prefix}{state}_norm"), width));
    }
    expected
}

/// Every tensor of the encoder with its shape.
pub fn expected_tensors(config: &SkimConfig) -> Vec<Expected> {
    let mut expected = Vec::new();
    for block in 0..config.num_blocks {
        expected.extend(segment_tensors(&config.segment(), &format!("seg_lstms.{block}.")));
    }
    if let Some(memory) = config.memory() {
        for block in 1..config.num_blocks {
            expected.extend(memory_tensors(&memory, &format!("mem_lstms.{}.", block - 1)));
        }
    }
    expected.push(("output_fc.0.weight".into(), vec![1]));
    let shape = vec![config.output_size, config.input_size, 1];
    expected.push(("output_fc.1.weight".into(), shape));
    expected.push(("output_fc.1.bias".into(), vec![config.output_size]));
    expected
}

/// What a step consumes and produces: frames one by one, none ahead.
pub fn geometry(config: &SkimConfig) -> Geometry {
    Geometry {
        num_features: config.input_size,
        segment_frames: match cannot_stream(config) {
            Some(_) => 1,
            None => config.step_length(),
        },
        lookahead_frames: 0,
        subsampling: 1,
        output_dim: config.output_size,
    }
}

/// Why the encoder cannot be stepped live, or `None` when it can.
pub fn cannot_stream(config: &SkimConfig) -> Option<String> {
    let reasons = [
        (
            config.bidirectional,
            "it is bidirectional and reads from the end as well",
        ),
        (
            config.norm_type == NormType::Global,
            "its norms (gLN) take their statistics from whole segments and utterances; cLN would not",
        ),
        (config.seg_overlap, "its segments overlap by frames still to come"),
        (
            config.mem_type.is_none(),
            "without a MemLSTM (mem_type null) each block begins with the state at the end of the same segment",
        ),
    ];
    let found: Vec<&str> = reasons
        .into_iter()
        .filter_map(|(holds, reason)| holds.then_some(reason))
        .collect();
    (!found.is_empty()).then(|| found.join("; "))
}
