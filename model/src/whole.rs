//! A model that cannot stream, served all the same: whole utterances by its reference executor, features in, log-probs out.

use candle_core::{DType, Device, Tensor};

use crate::architecture;
use crate::config::Config;
use crate::encoder::head::CtcHead;
use crate::encoder::{Geometry, OfflineEncoder};
use crate::error::ModelError;
use crate::loader::Weights;

/// The encoder of whole utterances and the CTC head behind it. Holds weights only: nothing is kept from one call to the next.
pub(crate) struct WholeEncoder {
    encoder: Box<dyn OfflineEncoder>,
    head: CtcHead,
    geometry: Geometry,
    reason: String,
}

impl WholeEncoder {
    /// Builds the encoder of a model that cannot stream for this `reason`, with a head for `classes` classes.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] for missing tensors, or for an architecture that is no encoder of features.
    pub(crate) fn new(
        config: &Config,
        weights: &Weights,
        classes: usize,
        reason: String,
    ) -> Result<Self, ModelError> {
        let encoder = architecture::offline_encoder(&config.encoder, weights)?;
        let geometry = Geometry {
            output_dim: classes,
            ..encoder.geometry().clone()
        };
        Ok(Self {
            encoder,
            head: CtcHead::new(weights)?,
            geometry,
            reason,
        })
    }

    /// What it consumes and produces, its output being log-probs.
    pub(crate) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// What it needs that a live stream does not have.
    pub(crate) fn reason(&self) -> &str {
        &self.reason
    }

    /// Encodes one utterance, `(frames + look-ahead, features) f32` row by row, into `(output frames, classes) f32` log-probs.
    ///
    /// # Errors
    /// [`ModelError::Input`] for values that are no whole frames, for no frame, or for what the architecture cannot take.
    pub(crate) fn log_probs(&self, features: &[f32]) -> Result<Vec<f32>, ModelError> {
        let (width, lookahead) = (self.geometry.num_features, self.geometry.lookahead_frames);
        let frames = features.len() / width;
        if !features.len().is_multiple_of(width) || frames <= lookahead {
            let expected = format!("frames of {width} values, more than {lookahead} of them");
            return Err(ModelError::input(
                "features",
                expected,
                format!("{} values", features.len()),
            ));
        }
        let features = Tensor::from_slice(features, (1, frames, width), &Device::Cpu)?;
        let (encoded, lengths) = self.encoder.forward(&features, &[frames - lookahead])?;
        let valid = lengths.first().copied().unwrap_or_default().min(encoded.dim(1)?);
        let log_probs = self.head.log_probs(&encoded.narrow(1, 0, valid)?)?;
        Ok(log_probs.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
    }
}
