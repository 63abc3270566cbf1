//! The one place that knows every architecture: each function is one match, and a new architecture is one arm in each.
//!
//! Encoders know nothing of heads: [`streaming_encoder`] puts the CTC head of a model behind whichever encoder it has.

use candle_core::Device;
use waxwing_frontend::features::FeatureConfig;

use crate::attention_decoder::{self, AttentionDecoder};
use crate::config::{Config, EncoderConfig};
use crate::encoder::csr;
use crate::encoder::emformer::{self, DeviceEmformer, Emformer};
use crate::encoder::fsmn::{self, Fsmn, FsmnModule};
use crate::encoder::head::{self, WithHead};
use crate::encoder::recurrent::{self, CellStack, Recurrent, RecurrentModule};
use crate::encoder::sanm::{self, Sanm, SanmModule};
use crate::encoder::skim::{self, MemLstm, SegLstm, Skim};
use crate::encoder::{Geometry, Module, OfflineEncoder, StreamingEncoder};
use crate::error::ModelError;
use crate::loader::{Expected, Weights};
use crate::module::Classes;
use crate::module::EncoderModule;
use crate::phones::{self, PhonesConfig};
use crate::precision::Precision;
use crate::second_listener;
use crate::transducer::{self, TransducerEncoder, TransducerModule};
use crate::vad::VadModule;

/// Reports every contradiction in the sizes: `require(holds, "encoder.field: expected …, found …")`.
pub(crate) fn problems(encoder: &EncoderConfig, require: &mut dyn FnMut(bool, String)) {
    match encoder {
        EncoderConfig::Emformer(sizes) => sizes.problems(false, require),
        EncoderConfig::WhisperEmformer(sizes) => sizes.problems(true, require),
        EncoderConfig::EmformerRnnt(sizes) => sizes.problems(require),
        EncoderConfig::Fsmn(sizes) => sizes.problems(require),
        EncoderConfig::FunasrFsmn(sizes) => sizes.problems(require),
        EncoderConfig::DeepFsmn(sizes) => sizes.problems(require),
        EncoderConfig::Sanm(sizes) => sizes.problems(require),
        EncoderConfig::Recurrent(sizes) => sizes.problems(require),
        EncoderConfig::RecurrentCells(sizes) => sizes.problems(require),
        EncoderConfig::AttentionalRnnDecoder(sizes) => sizes.problems(require),
        EncoderConfig::Skim(sizes) => sizes.problems(require),
        EncoderConfig::SkimMemLstm(sizes) => sizes.problems(require),
        EncoderConfig::SkimSegLstm(sizes) => sizes.problems(require),
        // Its sizes are fixed.
        EncoderConfig::CsrConvnet(_) => {}
    }
}

/// Every tensor of the encoder with its shape, without a head.
pub fn encoder_tensors(encoder: &EncoderConfig) -> Vec<Expected> {
    match encoder {
        EncoderConfig::Emformer(sizes) | EncoderConfig::WhisperEmformer(sizes) => {
            emformer::expected_tensors(sizes)
        }
        EncoderConfig::EmformerRnnt(sizes) => transducer::expected_tensors(sizes),
        EncoderConfig::Fsmn(sizes) => sizes.program().expected_tensors(),
        EncoderConfig::FunasrFsmn(sizes) => sizes.program().expected_tensors(),
        EncoderConfig::DeepFsmn(sizes) => sizes.program().expected_tensors(),
        EncoderConfig::Sanm(sizes) => sizes.expected_tensors(),
        EncoderConfig::Recurrent(sizes) => recurrent::expected_tensors(sizes),
        EncoderConfig::RecurrentCells(sizes) => CellStack::expected_tensors(sizes, ""),
        EncoderConfig::AttentionalRnnDecoder(sizes) => attention_decoder::expected_tensors(sizes),
        EncoderConfig::Skim(sizes) => skim::expected_tensors(sizes),
        EncoderConfig::SkimMemLstm(sizes) => skim::memory_tensors(sizes, ""),
        EncoderConfig::SkimSegLstm(sizes) => skim::segment_tensors(sizes, ""),
        EncoderConfig::CsrConvnet(sizes) => csr::expected_tensors(sizes),
    }
}

/// What the encoder consumes and produces, without a head; `None` for a module that is no encoder of features.
pub fn geometry(encoder: &EncoderConfig) -> Option<Geometry> {
    match encoder {
        EncoderConfig::Emformer(sizes) | EncoderConfig::WhisperEmformer(sizes) => {
            Some(emformer::geometry(sizes))
        }
        EncoderConfig::EmformerRnnt(sizes) => Some(transducer::geometry(sizes)),
        EncoderConfig::Fsmn(sizes) => Some(sizes.program().geometry()),
        EncoderConfig::FunasrFsmn(sizes) => Some(sizes.program().geometry()),
        EncoderConfig::DeepFsmn(sizes) => Some(sizes.program().geometry()),
        EncoderConfig::Sanm(sizes) => Some(sizes.geometry()),
        EncoderConfig::Recurrent(sizes) => Some(recurrent::geometry(sizes)),
        EncoderConfig::Skim(sizes) => Some(skim::geometry(sizes)),
        EncoderConfig::CsrConvnet(_) => Some(csr::geometry()),
        EncoderConfig::RecurrentCells(_)
        | EncoderConfig::AttentionalRnnDecoder(_)
        | EncoderConfig::SkimMemLstm(_)
        | EncoderConfig::SkimSegLstm(_) => None,
    }
}

/// Why the encoder cannot be stepped live, or `None` when it can.
pub fn cannot_stream(encoder: &EncoderConfig) -> Option<String> {
    match encoder {
        EncoderConfig::Emformer(_)
        | EncoderConfig::WhisperEmformer(_)
        | EncoderConfig::EmformerRnnt(_)
        | EncoderConfig::Fsmn(_)
        | EncoderConfig::FunasrFsmn(_)
        | EncoderConfig::DeepFsmn(_) => None,
        EncoderConfig::Sanm(sizes) => sizes.cannot_stream(),
        EncoderConfig::Recurrent(sizes) => recurrent::cannot_stream(sizes),
        EncoderConfig::Skim(sizes) => skim::cannot_stream(sizes),
        EncoderConfig::CsrConvnet(_) => Some(csr::cannot_stream()),
        EncoderConfig::RecurrentCells(_)
        | EncoderConfig::AttentionalRnnDecoder(_)
        | EncoderConfig::SkimMemLstm(_)
        | EncoderConfig::SkimSegLstm(_) => Some(NO_ENCODER.into()),
    }
}

/// Values of one feature frame that the model is served with, its `features` being what they are.
pub(crate) fn served_num_features(config: &Config) -> Option<usize> {
    match (&config.encoder, &config.features) {
        (EncoderConfig::EmformerRnnt(sizes), Some(FeatureConfig::MelWindows(_))) => {
            Some(transducer::window_geometry(sizes).num_features)
        }
        _ => geometry(&config.encoder).map(|geometry| geometry.num_features),
    }
}

/// Why a module has neither a streaming nor an offline encoder.
const NO_ENCODER: &str = "it is a part that `run` runs, not an encoder of features";

fn no_encoder() -> ModelError {
    ModelError::Invalid {
        problems: vec![format!("config.json: architecture: {NO_ENCODER}")],
    }
}

fn bare_streaming_encoder(
    config: &Config,
    weights: &Weights,
    device: &Device,
    precision: Precision,
) -> Result<Box<dyn StreamingEncoder>, ModelError> {
    if let Some(reason) = cannot_stream(&config.encoder) {
        return Err(ModelError::CannotStream { reason });
    }
    if let Some(problem) = cannot_multiply(&config.encoder, device, precision) {
        return Err(ModelError::Invalid {
            problems: vec![problem],
        });
    }
    Ok(match &config.encoder {
        EncoderConfig::Emformer(sizes) | EncoderConfig::WhisperEmformer(sizes) if device.is_cpu() => {
            Box::new(Emformer::with_precision(sizes, weights, precision)?)
        }
        EncoderConfig::Emformer(sizes) | EncoderConfig::WhisperEmformer(sizes) => {
            Box::new(DeviceEmformer::new(sizes, weights, device)?)
        }
        EncoderConfig::EmformerRnnt(sizes) => {
            let windows = matches!(config.features, Some(FeatureConfig::MelWindows(_)));
            Box::new(TransducerEncoder::new(sizes, weights, windows, precision)?)
        }
        EncoderConfig::Fsmn(sizes) => Box::new(Fsmn::new(&sizes.program(), weights)?),
        EncoderConfig::FunasrFsmn(sizes) => Box::new(Fsmn::new(&sizes.program(), weights)?),
        EncoderConfig::DeepFsmn(sizes) => Box::new(Fsmn::new(&sizes.program(), weights)?),
        EncoderConfig::Sanm(sizes) => Box::new(Sanm::new(sizes, weights)?),
        EncoderConfig::Recurrent(sizes) => Box::new(Recurrent::new(sizes, weights)?),
        EncoderConfig::Skim(sizes) => Box::new(Skim::new(sizes, weights)?),
        EncoderConfig::CsrConvnet(_) => {
            return Err(ModelError::CannotStream {
                reason: csr::cannot_stream(),
            });
        }
        EncoderConfig::RecurrentCells(_)
        | EncoderConfig::AttentionalRnnDecoder(_)
        | EncoderConfig::SkimMemLstm(_)
        | EncoderConfig::SkimSegLstm(_) => return Err(no_encoder()),
    })
}

/// Why an encoder cannot run in a precision on a device, or `None` when it can.
fn cannot_multiply(encoder: &EncoderConfig, device: &Device, precision: Precision) -> Option<String> {
    let is_emformer = matches!(
        encoder,
        EncoderConfig::Emformer(_) | EncoderConfig::WhisperEmformer(_) | EncoderConfig::EmformerRnnt(_)
    );
    match precision {
        Precision::F32 => None,
        Precision::Int8 | Precision::W8A8 | Precision::Bf16 if !is_emformer => Some(format!(
            "precision: expected {} for this architecture, found {precision}, which is for the Emformers",
            Precision::F32
        )),
        Precision::Int8 | Precision::W8A8 | Precision::Bf16 if !device.is_cpu() => Some(format!(
            "precision: expected {} on a GPU, found {precision}, which is for the CPU",
            Precision::F32
        )),
        Precision::Int8 | Precision::W8A8 | Precision::Bf16 => None,
    }
}

/// Builds the encoder of whole utterances in the weights' type.
///
/// # Errors
/// [`ModelError::Invalid`] for missing tensors, or for an architecture that is no encoder of features.
pub fn offline_encoder(
    encoder: &EncoderConfig,
    weights: &Weights,
) -> Result<Box<dyn OfflineEncoder>, ModelError> {
    Ok(match encoder {
        EncoderConfig::Emformer(sizes) | EncoderConfig::WhisperEmformer(sizes) => {
            Box::new(emformer::Reference::new(sizes, weights, &Device::Cpu)?)
        }
        EncoderConfig::EmformerRnnt(sizes) => Box::new(transducer::Reference::new(sizes, weights)?),
        EncoderConfig::Fsmn(sizes) => {
            Box::new(fsmn::Reference::new(&sizes.program(), weights, &Device::Cpu)?)
        }
        EncoderConfig::FunasrFsmn(sizes) => {
            Box::new(fsmn::Reference::new(&sizes.program(), weights, &Device::Cpu)?)
        }
        EncoderConfig::DeepFsmn(sizes) => {
            Box::new(fsmn::Reference::new(&sizes.program(), weights, &Device::Cpu)?)
        }
        EncoderConfig::Sanm(sizes) => Box::new(sanm::Reference::new(sizes, weights, &Device::Cpu)?),
        EncoderConfig::Recurrent(sizes) => Box::new(recurrent::Reference::new(sizes, weights)?),
        EncoderConfig::Skim(sizes) => Box::new(skim::Reference::new(sizes, weights)?),
        EncoderConfig::CsrConvnet(sizes) => Box::new(csr::Reference::new(sizes, weights)?),
        EncoderConfig::RecurrentCells(_)
        | EncoderConfig::AttentionalRnnDecoder(_)
        | EncoderConfig::SkimMemLstm(_)
        | EncoderConfig::SkimSegLstm(_) => return Err(no_encoder()),
    })
}

/// Builds what `run` runs.
///
/// # Errors
/// [`ModelError::Invalid`] for missing tensors.
pub fn module(config: &Config, weights: &Weights) -> Result<Box<dyn Module>, ModelError> {
    let module = bare_module(config, weights)?;
    Ok(match &config.vad {
        Some(decision) => Box::new(VadModule::new(module, decision, config, weights)?),
        None => module,
    })
}

fn bare_module(config: &Config, weights: &Weights) -> Result<Box<dyn Module>, ModelError> {
    Ok(match &config.encoder {
        EncoderConfig::Emformer(_) | EncoderConfig::WhisperEmformer(_) => {
            Box::new(EncoderModule::new(config, weights)?)
        }
        EncoderConfig::EmformerRnnt(sizes) => Box::new(TransducerModule::new(sizes, weights)?),
        EncoderConfig::Fsmn(sizes) => Box::new(FsmnModule::new(&sizes.program(), config, weights)?),
        EncoderConfig::FunasrFsmn(sizes) => Box::new(FsmnModule::new(&sizes.program(), config, weights)?),
        EncoderConfig::DeepFsmn(sizes) => Box::new(FsmnModule::new(&sizes.program(), config, weights)?),
        EncoderConfig::Sanm(sizes) => Box::new(SanmModule::new(sizes, config, weights)?),
        EncoderConfig::Recurrent(_) if config.ctc.is_some() => Box::new(EncoderModule::new(config, weights)?),
        EncoderConfig::Recurrent(sizes) => {
            Box::new(RecurrentModule::new(recurrent::Reference::new(sizes, weights)?))
        }
        EncoderConfig::RecurrentCells(sizes) => Box::new(CellStack::new(sizes, weights, "")?),
        EncoderConfig::AttentionalRnnDecoder(sizes) => Box::new(AttentionDecoder::new(sizes, weights)?),
        EncoderConfig::Skim(_) | EncoderConfig::CsrConvnet(_) => {
            Box::new(EncoderModule::new(config, weights)?)
        }
        EncoderConfig::SkimMemLstm(sizes) => Box::new(MemLstm::new(sizes, weights, "")?),
        EncoderConfig::SkimSegLstm(sizes) => Box::new(SegLstm::new(sizes, weights, "")?),
    })
}

/// Every tensor that a model file without a second listener must hold. The number of classes of a CTC head is the file's own unless it is given.
pub fn expected_tensors(config: &Config, classes: Option<usize>) -> Vec<Expected> {
    let text = None;
    expected_with(config, Classes { head: classes, text })
}

/// As [`expected_tensors`], with those of a second listener where the model has one.
pub(crate) fn expected_with(config: &Config, classes: Classes) -> Vec<Expected> {
    let mut expected = encoder_tensors(&config.encoder);
    if let (Some(sizes), Some(features)) = (&config.second_listener, &config.features) {
        let phones = config.phones.as_ref().map_or(1, PhonesConfig::classes);
        let classes = (classes.text.unwrap_or(1), phones);
        expected.extend(second_listener::expected_tensors(
            features.num_features(),
            classes,
            sizes,
        ));
    }
    let classes = classes.head;
    if let (Some(_), Some(classes), Some(geometry)) = (&config.ctc, classes, geometry(&config.encoder)) {
        expected.extend(head::expected_tensors(classes, geometry.output_dim));
        if let Some(phones) = config.phones_beside_classes() {
            expected.extend(phones::expected_tensors(phones, geometry.output_dim));
        }
    }
    expected
}

/// Builds the encoder that is served, with the model's CTC head behind it if it has one. The Emformers run on any device; the
/// other encoders, and the head, a small part of the work, run on the CPU.
///
/// # Errors
/// [`ModelError::CannotStream`], or [`ModelError::Invalid`] for missing tensors.
pub fn streaming_encoder(
    config: &Config,
    weights: &Weights,
    device: &Device,
) -> Result<Box<dyn StreamingEncoder>, ModelError> {
    streaming_encoder_in(config, weights, device, Precision::F32)
}

/// As [`streaming_encoder`], with the products of an Emformer's layers in a precision.
///
/// # Errors
/// Also [`ModelError::Invalid`] for a precision that the architecture or the device does not have.
pub fn streaming_encoder_in(
    config: &Config,
    weights: &Weights,
    device: &Device,
    precision: Precision,
) -> Result<Box<dyn StreamingEncoder>, ModelError> {
    let encoder = bare_streaming_encoder(config, weights, device, precision)?;
    Ok(match &config.ctc {
        Some(_) => Box::new(WithHead::new(
            encoder,
            weights,
            config.phones_beside_classes().is_some(),
        )?),
        None => encoder,
    })
}
