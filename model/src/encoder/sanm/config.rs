//! The constructor of a SAN-M encoder, as `config.json` holds it, and what follows from it.

use serde::{Deserialize, Serialize};

use crate::config::require_sizes;
use crate::encoder::Geometry;
use crate::loader::Expected;

/// `SenseVoiceEncoderSmall(...)` of FunASR, whose names these are, with the query embeddings that its model puts in front;
/// without `tp_norm` and queries it is `SANMEncoder(...)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SanmConfig {
    /// Values of one input frame; even, since positions are added to it.
    pub input_size: usize,
    /// Width of the layers.
    pub output_size: usize,
    /// Attention heads; divides the width.
    pub attention_heads: usize,
    /// Width inside the feed-forward part.
    pub linear_units: usize,
    /// Layers before `after_norm`, the first of which takes the input's width to the layers'.
    pub num_blocks: usize,
    /// Layers behind `after_norm`.
    #[serde(default)]
    pub tp_blocks: usize,
    /// Whether a second norm, `tp_norm`, ends the encoder.
    #[serde(default = "default_true")]
    pub tp_norm: bool,
    /// Taps of the memories, the current frame included.
    #[serde(default = "default_kernel_size")]
    pub kernel_size: usize,
    /// Taps by which the memories are moved to the past.
    #[serde(default)]
    pub sanm_shfit: usize,
    /// Added to variances before their root: 1e-5 in SenseVoice, 1e-12 in FunASR's other encoders.
    #[serde(default = "default_norm_epsilon")]
    pub norm_epsilon: f64,
    /// Rows of `embed.weight`; 0 when there is none.
    #[serde(default)]
    pub embed_rows: usize,
    /// Rows of `embed.weight` that stand in front of an utterance, in this order: language, 1, 2, style.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub queries: Vec<usize>,
    /// Chunks, for a model that is to stream; without them every frame sees the whole utterance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk: Option<ChunkConfig>,
}

/// FunASR's chunk mode: `chunk_size` and `encoder_chunk_look_back`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChunkConfig {
    /// Frames before a chunk that are computed again with it, frames of a chunk, frames after it that it sees.
    pub size: [usize; 3],
    /// Chunks before that whose keys and values are kept.
    pub look_back: usize,
}

fn default_true() -> bool {
    true
}

fn default_kernel_size() -> usize {
    11
}

fn default_norm_epsilon() -> f64 {
    1e-5
}

impl ChunkConfig {
    /// Frames that are computed at once.
    pub(super) fn window(&self) -> usize {
        self.size.iter().sum()
    }

    /// Frames whose keys and values a step adds to what is kept: all but those after the chunk.
    pub(super) fn kept_by_a_step(&self) -> usize {
        self.size[0] + self.size[1]
    }

    /// Rows of keys kept after `steps` steps. The original trims what it keeps from the second step on only.
    pub(super) fn kept_after(&self, steps: u64) -> usize {
        match (steps, self.look_back) {
            (0, _) | (_, 0) => 0,
            (1, _) => self.kept_by_a_step(),
            _ => {
                let most = self.look_back * self.size[1];
                usize::try_from(steps).map_or(most, |steps| {
                    most.min(steps.saturating_mul(self.kept_by_a_step()))
                })
            }
        }
    }

    /// Most rows of keys kept.
    pub(super) fn most_kept(&self) -> usize {
        if self.look_back == 0 {
            0
        } else {
            self.kept_by_a_step().max(self.look_back * self.size[1])
        }
    }
}

impl SanmConfig {
    /// Reports what does not make sense through `require`.
    pub fn problems(&self, require: &mut dyn FnMut(bool, String)) {
        require_sizes(
            require,
            1,
            &[
                ("input_size", self.input_size),
                ("output_size", self.output_size),
                ("attention_heads", self.attention_heads),
                ("linear_units", self.linear_units),
                ("num_blocks", self.num_blocks),
                ("kernel_size", self.kernel_size),
            ],
        );
        require_sizes(
            require,
            0,
            &[("tp_blocks", self.tp_blocks), ("embed_rows", self.embed_rows)],
        );
        require(
            self.input_size.is_multiple_of(2) && self.input_size >= 4,
            format!(
                "encoder.input_size: expected an even number from 4 on, found {}",
                self.input_size
            ),
        );
        require(
            self.attention_heads == 0 || self.output_size.is_multiple_of(self.attention_heads),
            format!(
                "encoder.attention_heads: expected a divisor of output_size ({}), found {}",
                self.output_size, self.attention_heads
            ),
        );
        let most = self.kernel_size.saturating_sub(1).div_ceil(2);
        require(
            self.sanm_shfit <= most,
            format!(
                "encoder.sanm_shfit: expected at most {most}, found {}",
                self.sanm_shfit
            ),
        );
        require(
            self.norm_epsilon.is_finite() && self.norm_epsilon >= 0.0,
            "encoder.norm_epsilon: expected a number from 0 on".into(),
        );
        require(
            self.queries.iter().all(|&row| row < self.embed_rows),
            format!(
                "encoder.queries: expected rows below embed_rows ({}), found {:?}",
                self.embed_rows, self.queries
            ),
        );
        if let Some(chunk) = self.chunk {
            let [before, frames, after] = chunk.size;
            require_sizes(require, 1, &[("chunk.size[1]", frames)]);
            require_sizes(
                require,
                0,
                &[
                    ("chunk.size[0]", before),
                    ("chunk.size[2]", after),
                    ("chunk.look_back", chunk.look_back),
                    (
                        "chunk.look_back · size[1]",
                        chunk.look_back.saturating_mul(frames),
                    ),
                ],
            );
            require(
                after > 0 || chunk.look_back == 0,
                "encoder.chunk.size[2]: expected at least 1 with a look_back (the original keeps nothing without)".into(),
            );
            require(
                self.queries.is_empty(),
                "encoder.queries: expected none in chunks, which have no beginning to put them at".into(),
            );
        }
    }

    /// Frames before and after its own that a memory sees.
    pub(super) fn memory_reach(&self) -> (usize, usize) {
        let before = (self.kernel_size - 1) / 2 + self.sanm_shfit;
        (before, self.kernel_size - 1 - before)
    }

    /// Names of all layers, those behind `after_norm` last, with the width that enters each.
    pub(super) fn layers(&self) -> Vec<(String, usize)> {
        let blocks = (0..self.num_blocks.saturating_sub(1)).map(|index| format!("encoders.{index}"));
        let behind = (0..self.tp_blocks).map(|index| format!("tp_encoders.{index}"));
        std::iter::once(("encoders0.0".to_owned(), self.input_size))
            .chain(blocks.chain(behind).map(|name| (name, self.output_size)))
            .collect()
    }

    /// Every tensor of the encoder, with its shape.
    pub fn expected_tensors(&self) -> Vec<Expected> {
        let (dim, units) = (self.output_size, self.linear_units);
        let mut expected: Vec<Expected> = Vec::new();
        let mut affine = |name: String, weight: Vec<usize>| {
            let rows = weight.first().copied().unwrap_or(0);
            expected.push((format!("{name}.weight"), weight));
            expected.push((format!("{name}.bias"), vec![rows]));
        };
        for (name, inputs) in self.layers() {
            affine(format!("{name}.self_attn.linear_q_k_v"), vec![3 * dim, inputs]);
            affine(format!("{name}.self_attn.linear_out"), vec![dim, dim]);
            affine(format!("{name}.feed_forward.w_1"), vec![units, dim]);
            affine(format!("{name}.feed_forward.w_2"), vec![dim, units]);
            affine(format!("{name}.norm1"), vec![inputs]);
            affine(format!("{name}.norm2"), vec![dim]);
        }
        affine("after_norm".into(), vec![dim]);
        if self.tp_norm {
            affine("tp_norm".into(), vec![dim]);
        }
        for (name, _) in self.layers() {
            let kernel = vec![dim, 1, self.kernel_size];
            expected.push((format!("{name}.self_attn.fsmn_block.weight"), kernel));
        }
        if self.embed_rows > 0 {
            expected.push(("embed.weight".into(), vec![self.embed_rows, self.input_size]));
        }
        expected
    }

    /// What a step consumes and produces.
    pub fn geometry(&self) -> Geometry {
        let (segment_frames, lookahead_frames) =
            self.chunk.map_or((1, 0), |chunk| (chunk.size[1], chunk.size[2]));
        Geometry {
            num_features: self.input_size,
            segment_frames,
            lookahead_frames,
            subsampling: 1,
            output_dim: self.output_size,
        }
    }

    /// Why it cannot be stepped live, or `None` when it can.
    pub fn cannot_stream(&self) -> Option<String> {
        self.chunk.is_none().then(|| {
            "every frame of this SAN-M encoder sees the whole utterance; give the configuration a `chunk`, for which the model \
             should have been trained"
                .into()
        })
    }

    /// What is added to frame `position` (from 0) of the input: sines in the first half, cosines in the second, counted from 1.
    pub(super) fn write_position(&self, position: u64, mut add: impl FnMut(usize, f64)) {
        let half = self.input_size / 2;
        let step = 10_000f64.ln() / (half as f64 - 1.0);
        for index in 0..half {
            let angle = (position + 1) as f64 * (-step * index as f64).exp();
            add(index, angle.sin());
            add(half + index, angle.cos());
        }
    }
}
