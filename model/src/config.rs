//! `config.json` of a model directory.
//!
//! Unknown fields are refused, so that a misspelt or newer setting is never silently ignored. The sizes of an encoder
//! are described in its own room under [`crate::encoder`].

use serde::{Deserialize, Serialize};
use waxwing_frontend::features::FeatureConfig;

use crate::architecture;
use crate::attention_decoder::AttentionDecoderConfig;
use crate::ctc::Decoding;
use crate::encoder::csr::ConvNet2Config;
use crate::encoder::emformer::EmformerConfig;
use crate::encoder::fsmn::{self, DeepFsmnConfig, FunasrFsmnConfig};
use crate::encoder::recurrent::{CellStackConfig, RecurrentConfig};
use crate::encoder::sanm::SanmConfig;
use crate::encoder::skim::{MemLstmConfig, SegLstmConfig, SkimConfig};
use crate::error::ModelError;
use crate::phones::PhonesConfig;
use crate::second_listener::SecondListenerConfig;
use crate::transducer::RnntConfig;
use crate::utterance_encoder;
use crate::vad::VadConfig;

/// The value of `format` that this release reads.
pub const FORMAT: u32 = 1;

/// A model directory's `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "ConfigFile")]
pub struct Config {
    /// Version of the directory's layout; [`FORMAT`].
    pub format: u32,
    /// Name under which the model is asked for.
    pub id: String,
    /// Which encoder the weights belong to, and its sizes: `"architecture": "…", "encoder": {…}`.
    #[serde(flatten)]
    pub encoder: EncoderConfig,
    /// BCP 47 tag of the language it transcribes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Rate of the audio that the features are made from, in Hz.
    pub sample_rate: u32,
    /// How audio becomes features. A model without them can be run on features (`encode`, `run`), but not served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub features: Option<FeatureConfig>,
    /// Present when the model ends in a CTC head (tensors `head.weight` and `head.bias`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ctc: Option<CtcConfig>,
    /// Present when something says phones: a second CTC head behind the encoder (tensors `phones.weight` and `phones.bias`), or the second listener's phone head. How words are
    /// pronounced stands in `pronunciations.txt.gz`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phones: Option<PhonesConfig>,
    /// Present when another network hears each utterance again at its end (tensors `utterance_encoder.…` and `text_decoder.…`, vocabulary in
    /// `text_tokens.txt`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub second_listener: Option<SecondListenerConfig>,
    /// Present when the model's outputs are probabilities that tell speech from silence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vad: Option<VadConfig>,
    /// How its words are best searched for, where neither the operator nor the client says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search: Option<SearchConfig>,
    /// SPDX expression for the weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
}

/// The file as it is written: serde cannot refuse unknown fields and read the architecture's tag at once.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    format: u32,
    id: String,
    architecture: serde_json::Value,
    encoder: serde_json::Value,
    language: Option<String>,
    #[serde(default = "default_sample_rate")]
    sample_rate: u32,
    features: Option<FeatureConfig>,
    ctc: Option<CtcConfig>,
    phones: Option<PhonesConfig>,
    second_listener: Option<SecondListenerConfig>,
    vad: Option<VadConfig>,
    search: Option<SearchConfig>,
    license: Option<String>,
}

impl TryFrom<ConfigFile> for Config {
    type Error = String;

    fn try_from(file: ConfigFile) -> Result<Self, String> {
        let tagged = serde_json::json!({"architecture": file.architecture, "encoder": file.encoder});
        Ok(Self {
            format: file.format,
            id: file.id,
            encoder: serde_json::from_value(tagged)
                .map_err(|error| format!("architecture and encoder: {error}"))?,
            language: file.language,
            sample_rate: file.sample_rate,
            features: file.features,
            ctc: file.ctc,
            phones: file.phones,
            second_listener: file.second_listener,
            vad: file.vad,
            search: file.search,
            license: file.license,
        })
    }
}

fn default_sample_rate() -> u32 {
    16_000
}

/// The architectures that can be loaded, each with its sizes. [`architecture`] knows what to do with each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "architecture", content = "encoder", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum EncoderConfig {
    /// `torchaudio.models.Emformer` as it is: its input frames are already `dim` wide.
    Emformer(EmformerConfig),
    /// Whisper's convolutional stem and sinusoids in front of Emformer layers.
    WhisperEmformer(EmformerConfig),
    /// An Emformer transcriber with a predictor and a joiner, as `torchaudio.models.emformer_rnnt_model` builds it.
    EmformerRnnt(RnntConfig),
    /// The stack of `d5555/FSMN`: one of its four cells, and two linear layers.
    Fsmn(fsmn::CellStackConfig),
    /// FunASR's FSMN, the encoder of FSMN-VAD and of its keyword spotters.
    FunasrFsmn(FunasrFsmnConfig),
    /// Compact, deep and pyramidal FSMN as the papers define them.
    DeepFsmn(DeepFsmnConfig),
    /// Self-attention with a memory beside it: FunASR's SenseVoice, and its encoders that work in chunks.
    Sanm(SanmConfig),
    /// speechbrain's RNN, LSTM, GRU, LiGRU or QuasiRNN.
    Recurrent(RecurrentConfig),
    /// A stack of speechbrain's cells: a module, no encoder.
    RecurrentCells(CellStackConfig),
    /// speechbrain's decoder with attention: a module, no encoder.
    AttentionalRnnDecoder(AttentionDecoderConfig),
    /// espnet's SkiM.
    Skim(SkimConfig),
    /// The part of SkiM between segments: a module, no encoder.
    SkimMemLstm(MemLstmConfig),
    /// The part of SkiM within a segment: a module, no encoder.
    SkimSegLstm(SegLstmConfig),
    /// csr-pytorch's ConvNet2.
    CsrConvnet(ConvNet2Config),
}

/// The CTC head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CtcConfig {
    /// Class of the blank.
    pub blank: usize,
}

/// What suits a model when a language model is heard beside it; what is left out is [`Decoding`]'s. A model that is sure of its words bears more of a
/// language model than one that is not.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchConfig {
    /// [`Decoding::language_model_weight`]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language_model_weight: Option<f32>,
    /// [`Decoding::word_bonus`]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub word_bonus: Option<f32>,
    /// [`Decoding::rescoring_weight`]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rescoring_weight: Option<f32>,
}

impl SearchConfig {
    /// `decoding` with what suits the model.
    pub fn over(self, decoding: Decoding) -> Decoding {
        Decoding {
            language_model_weight: self
                .language_model_weight
                .unwrap_or(decoding.language_model_weight),
            word_bonus: self.word_bonus.unwrap_or(decoding.word_bonus),
            rescoring_weight: self.rescoring_weight.unwrap_or(decoding.rescoring_weight),
            ..decoding
        }
    }
}

/// Element-wise function between the two feed-forward products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// max(x, 0)
    #[default]
    Relu,
    /// x Φ(x), by the error function rather than its tanh approximation.
    Gelu,
    /// x σ(x)
    Silu,
}

impl Config {
    /// Reads `config.json` and checks that its values make sense together.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] for text that is not such a JSON object, and with every contradiction found.
    pub fn from_json(json: &str) -> Result<Self, ModelError> {
        let config: Self = serde_json::from_str(json).map_err(|error| ModelError::Invalid {
            problems: vec![format!("config.json: {error}")],
        })?;
        config.check()?;
        Ok(config)
    }

    /// The phones that the streaming encoder itself says, behind its classes in every output frame.
    pub fn phones_beside_classes(&self) -> Option<&PhonesConfig> {
        self.phones.as_ref().filter(|_| self.second_listener.is_none())
    }

    /// Checks that the values make sense together.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] with every contradiction found.
    pub fn check(&self) -> Result<(), ModelError> {
        let mut problems = Vec::new();
        let mut require = |holds: bool, what: String| {
            if !holds {
                problems.push(format!("config.json: {what}"));
            }
        };
        require(
            self.format == FORMAT,
            format!("format: expected {FORMAT}, found {}", self.format),
        );
        require(
            !self.id.is_empty(),
            "id: expected a name, found an empty string".into(),
        );
        require(
            (8_000..=192_000).contains(&self.sample_rate),
            format!("sample_rate: expected 8000 to 192000, found {}", self.sample_rate),
        );
        architecture::problems(&self.encoder, &mut require);
        if let Some(Err(problem)) = self
            .search
            .map(|search| search.over(Decoding::default()).validate())
        {
            require(false, format!("search.{problem}"));
        }
        if let Some(phones) = &self.phones {
            let streams = architecture::geometry(&self.encoder).is_some()
                && architecture::cannot_stream(&self.encoder).is_none()
                && !matches!(self.encoder, EncoderConfig::EmformerRnnt(_));
            let listener_says_none =
                matches!(&self.second_listener, Some(listener) if listener.phone_head.is_none());
            require(
                self.ctc.is_some() && streams && !listener_says_none,
                "phones: expected an encoder that streams, with a CTC head, and a phone head in its second listener if there is one"
                    .into(),
            );
            phones.problems(&mut require);
        }
        if let Some(second_listener) = &self.second_listener {
            let subsampling = architecture::geometry(&self.encoder).map(|geometry| geometry.subsampling);
            require(
                self.ctc.is_some() && subsampling == Some(utterance_encoder::SUBSAMPLING),
                format!(
                    "second_listener: expected an encoder with a CTC head and a frame for every {} feature frames in front of it",
                    utterance_encoder::SUBSAMPLING
                ),
            );
            let shared = second_listener.encoder.shared_layers;
            let lends = match &self.encoder {
                EncoderConfig::WhisperEmformer(sizes) => {
                    let (dim, heads) = (second_listener.encoder.dim, second_listener.encoder.num_heads);
                    shared <= sizes.num_layers && (sizes.dim(), sizes.num_heads) == (dim, heads)
                }
                _ => false,
            };
            require(
                shared == 0 || lends,
                "second_listener.encoder.shared_layers: expected a whisper-emformer with as many layers, of the same width and heads, in front of it".into(),
            );
            let hears =
                matches!(&self.features, Some(FeatureConfig::StreamingLogMel(mel)) if mel.lfr.is_none());
            require(
                hears,
                "second_listener: expected features of the type streaming_log_mel without lfr".into(),
            );
            require(
                second_listener.phone_head.is_none() || self.phones.is_some(),
                "second_listener.phone_head: expected the names of its phones in phones".into(),
            );
            second_listener.problems(&mut require);
        }
        if let (Some(vad), Some(geometry)) = (&self.vad, architecture::geometry(&self.encoder)) {
            vad.problems(geometry.output_dim, &mut require);
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(ModelError::Invalid { problems })
        }
    }
}

/// Requires each size of a part of a model, `(name, size, least)`, to be at least so much and at most `most`.
pub(crate) fn require_sizes_of(
    part: &str,
    most: usize,
    sizes: &[(&str, usize, usize)],
    require: &mut dyn FnMut(bool, String),
) {
    for &(name, size, least) in sizes {
        require(
            (least..=most).contains(&size),
            format!("{part}.{name}: expected {least} to {most}, found {size}"),
        );
    }
}

/// Requires every size to be at least `least` and far below what would make products of sizes overflow.
pub(crate) fn require_sizes(require: &mut dyn FnMut(bool, String), least: usize, sizes: &[(&str, usize)]) {
    const MOST: usize = 1 << 20;
    for &(name, size) in sizes {
        require(
            (least..=MOST).contains(&size),
            if size < least {
                format!("encoder.{name}: expected at least {least}, found {size}")
            } else {
                format!("encoder.{name}: expected at most {MOST}, found {size}")
            },
        );
    }
}
