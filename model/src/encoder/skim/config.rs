//! Sizes of SkiM and of its two parts.

use serde::{Deserialize, Serialize};

use crate::config::require_sizes;

/// Arguments of `espnet2.enh.layers.skim.SkiM`, under their own names and with their defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SkimConfig {
    /// Values of one input frame.
    pub input_size: usize,
    /// Values of the LSTMs' states.
    pub hidden_size: usize,
    /// Values of one output frame.
    pub output_size: usize,
    /// SegLSTMs on top of one another, with a MemLSTM between each two.
    #[serde(default = "two")]
    pub num_blocks: usize,
    /// Frames of a segment: after as many the SegLSTMs begin anew from what the MemLSTMs hand on.
    #[serde(default = "twenty")]
    pub segment_size: usize,
    /// Read segments, and the row of segments, backwards as well.
    #[serde(default = "yes")]
    pub bidirectional: bool,
    /// What is handed on; `null` for no MemLSTM.
    #[serde(default = "both")]
    pub mem_type: Option<MemType>,
    /// Norm of the projections.
    #[serde(default = "global")]
    pub norm_type: NormType,
    /// Segments overlap by half.
    #[serde(default)]
    pub seg_overlap: bool,
    /// Frames that one live step advances by; `segment_size` where it is left out. Any number gives the same output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_length: Option<usize>,
    /// Used while training only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropout: Option<f64>,
}

/// Arguments of `espnet2.enh.layers.skim.MemLSTM`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemLstmConfig {
    /// Values of one direction's state.
    pub hidden_size: usize,
    /// Read the row of segments backwards as well.
    #[serde(default)]
    pub bidirectional: bool,
    /// What is handed on.
    pub mem_type: MemType,
    /// Norm of the projections.
    #[serde(default = "cumulative")]
    pub norm_type: NormType,
}

/// Arguments of `espnet2.enh.layers.skim.SegLSTM`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegLstmConfig {
    /// Values of one frame.
    pub input_size: usize,
    /// Values of one direction's state.
    pub hidden_size: usize,
    /// Read the segment backwards as well.
    #[serde(default)]
    pub bidirectional: bool,
    /// Norm of the projection.
    #[serde(default = "cumulative")]
    pub norm_type: NormType,
}

/// Which states of a segment a MemLSTM hands on to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemType {
    /// Hidden and cell state.
    Hc,
    /// The hidden state; the cell begins at zero.
    H,
    /// The cell state; the hidden begins at zero.
    C,
    /// Both as they are.
    Id,
}

impl MemType {
    /// Whether the hidden state goes through an LSTM.
    pub(crate) fn has_hidden(self) -> bool {
        matches!(self, Self::Hc | Self::H)
    }

    /// Whether the cell state goes through an LSTM.
    pub(crate) fn has_cell(self) -> bool {
        matches!(self, Self::Hc | Self::C)
    }
}

/// Over what a norm takes its mean and variance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NormType {
    /// The values of all frames.
    #[serde(rename = "gLN")]
    Global,
    /// The values of each frame.
    #[serde(rename = "cLN")]
    ByFrame,
}

fn two() -> usize {
    2
}

fn twenty() -> usize {
    20
}

fn yes() -> bool {
    true
}

fn both() -> Option<MemType> {
    Some(MemType::Hc)
}

fn global() -> NormType {
    NormType::Global
}

fn cumulative() -> NormType {
    NormType::ByFrame
}

impl SkimConfig {
    /// Frames that one live step advances by.
    pub fn step_length(&self) -> usize {
        self.step_length.unwrap_or(self.segment_size)
    }

    /// Sizes of a SegLSTM.
    pub fn segment(&self) -> SegLstmConfig {
        SegLstmConfig {
            input_size: self.input_size,
            hidden_size: self.hidden_size,
            bidirectional: self.bidirectional,
            norm_type: self.norm_type,
        }
    }

    /// Sizes of a MemLSTM, if there are any.
    pub fn memory(&self) -> Option<MemLstmConfig> {
        Some(MemLstmConfig {
            hidden_size: self.hidden_size,
            bidirectional: self.bidirectional,
            mem_type: self.mem_type?,
            norm_type: self.norm_type,
        })
    }

    /// Reports every contradiction.
    pub(crate) fn problems(&self, require: &mut dyn FnMut(bool, String)) {
        require_sizes(
            require,
            1,
            &[
                ("input_size", self.input_size),
                ("hidden_size", self.hidden_size),
                ("output_size", self.output_size),
                ("num_blocks", self.num_blocks),
                ("segment_size", self.segment_size),
                ("step_length", self.step_length()),
            ],
        );
        require(
            !self.seg_overlap || self.segment_size.is_multiple_of(2),
            format!(
                "encoder.segment_size: expected an even number with seg_overlap, found {}",
                self.segment_size
            ),
        );
    }
}

impl MemLstmConfig {
    /// 1, or 2 when it reads backwards as well.
    pub fn directions(&self) -> usize {
        1 + usize::from(self.bidirectional)
    }

    /// Reports every contradiction.
    pub(crate) fn problems(&self, require: &mut dyn FnMut(bool, String)) {
        require_sizes(require, 1, &[("hidden_size", self.hidden_size)]);
    }
}

impl SegLstmConfig {
    /// 1, or 2 when it reads backwards as well.
    pub fn directions(&self) -> usize {
        1 + usize::from(self.bidirectional)
    }

    /// Reports every contradiction.
    pub(crate) fn problems(&self, require: &mut dyn FnMut(bool, String)) {
        let sizes = [("input_size", self.input_size), ("hidden_size", self.hidden_size)];
        require_sizes(require, 1, &sizes);
    }
}
