//! Which models a server has: built in, or directories on disk.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use waxwing_frontend::features::FeatureConfig;
use waxwing_model::device::Device;
use waxwing_model::encoder::{Geometry, StateCache, StepRow};
use waxwing_model::language_model::LanguageModel;
use waxwing_model::model::{Model, Parts};
use waxwing_model::precision::Precision;
use waxwing_model::tokens::Tokens;
use waxwing_model::transcript::{Decoding, Hears, Transcriber, TranscriberOptions};

use crate::config::nearest;
use crate::engine::{StepFailed, StepModel};
use crate::wire::native::Latency;

/// The contents of a model directory.
struct BuiltIn {
    id: &'static str,
    config: &'static str,
    tokens: &'static str,
    weights: &'static [u8],
    language_model: &'static [u8],
    text_tokens: &'static str,
    pronunciations: &'static [u8],
}

macro_rules! built_in {
    ($id:literal, $language_model:literal) => {
        BuiltIn {
            id: $id,
            config: include_str!(concat!("../../model/pretrained/", $id, "/config.json")),
            tokens: include_str!(concat!("../../model/pretrained/", $id, "/tokens.txt")),
            weights: include_bytes!(concat!("../../model/pretrained/", $id, "/model.safetensors")),
            language_model: include_bytes!(concat!("../../model/pretrained/", $language_model, "/model.bin")),
            text_tokens: include_str!(concat!("../../model/pretrained/", $id, "/text_tokens.txt")),
            pronunciations: include_bytes!(concat!("../../model/pretrained/", $id, "/pronunciations.txt.gz")),
        }
    };
}

/// The models in the binary, the default first.
const BUILT_IN: &[BuiltIn] = &[built_in!("en-emformer", "en-ngram")];

/// Ids of the models in the binary, the default first.
pub fn built_in_ids() -> impl Iterator<Item = &'static str> {
    BUILT_IN.iter().map(|model| model.id)
}

/// Loads models by id or directory to run on a device; the built-in default when none is named.
///
/// # Errors
/// Every problem of every model, in one message.
pub fn load(names: &[String], device: &Device) -> anyhow::Result<Vec<Arc<Model>>> {
    load_in(names, device, Precision::F32)
}

/// As [`load`], in a precision.
///
/// # Errors
/// Also for a precision that a model or the device does not have.
pub fn load_in(names: &[String], device: &Device, precision: Precision) -> anyhow::Result<Vec<Arc<Model>>> {
    if names.is_empty() {
        let default = BUILT_IN
            .first()
            .context("this binary has no model inside\n\nhint: name one with `--model DIR`")?;
        return Ok(vec![Arc::new(from_binary(default, device, precision)?)]);
    }
    let mut models: Vec<Arc<Model>> = Vec::new();
    let mut problems = Vec::new();
    for name in names {
        match load_one(name, device, precision) {
            Ok(model) if models.iter().any(|other| other.id() == model.id()) => {
                problems.push(format!(
                    "{name}: another model is already called `{}`",
                    model.id()
                ));
            }
            Ok(model) => models.push(Arc::new(model)),
            Err(error) => problems.push(format!("{name}: {error:#}")),
        }
    }
    anyhow::ensure!(problems.is_empty(), "{}", problems.join("\n"));
    Ok(models)
}

fn load_one(name: &str, device: &Device, precision: Precision) -> anyhow::Result<Model> {
    if let Some(model) = BUILT_IN.iter().find(|model| model.id == name) {
        return from_binary(model, device, precision);
    }
    let path = Path::new(name);
    if path.is_dir() {
        return Ok(Model::load_in(path, device, precision)?);
    }
    let known: Vec<&str> = built_in_ids().collect();
    let near = nearest(name, known.iter().copied())
        .map(|near| format!("; did you mean `{near}`?"))
        .unwrap_or_default();
    anyhow::bail!(
        "neither a model directory nor a built-in model ({}){near}",
        known.join(", ")
    )
}

fn from_binary(model: &BuiltIn, device: &Device, precision: Precision) -> anyhow::Result<Model> {
    let unusable = || format!("the built-in model {} cannot be used", model.id);
    let language_model = LanguageModel::from_bytes(model.language_model).with_context(unusable)?;
    let parts = Parts {
        config_json: model.config,
        tokens_txt: model.tokens,
        text_tokens_txt: Some(model.text_tokens),
        pronunciations: Some(model.pronunciations),
        safetensors: model.weights,
    };
    let loaded = Model::from_parts_in(&parts, device, precision).with_context(unusable)?;
    Ok(loaded.with_language_model(Arc::new(language_model)))
}

impl StepModel for Model {
    fn id(&self) -> &str {
        Self::id(self)
    }

    fn geometry(&self) -> &Geometry {
        Self::geometry(self)
    }

    fn features(&self) -> FeatureConfig {
        Self::features(self).clone()
    }

    fn sample_rate_hz(&self) -> u32 {
        Self::sample_rate_hz(self)
    }

    fn tokens(&self) -> &Arc<Tokens> {
        Self::tokens(self)
    }

    fn output_frame_seconds(&self) -> f64 {
        Self::output_frame_seconds(self)
    }

    fn default_decoding(&self) -> Decoding {
        Self::default_decoding(self)
    }

    fn has_language_model(&self) -> bool {
        self.language_model().is_some()
    }

    fn text_scorer_hears(&self) -> Option<Hears> {
        self.text_scorer().map(|scorer| scorer.hears())
    }

    fn transcriber(&self, options: TranscriberOptions) -> Transcriber {
        Self::transcriber(self, options)
    }

    fn max_transcriber_bytes(&self, decoding: &Decoding) -> usize {
        Self::max_transcriber_bytes(self, decoding)
    }

    fn cannot_stream(&self) -> Option<&str> {
        Self::cannot_stream(self)
    }

    fn encode_whole(&self, features: &[f32]) -> Result<Vec<f32>, StepFailed> {
        Self::encode_whole(self, features).map_err(|error| StepFailed(error.to_string()))
    }

    fn new_state(&self) -> StateCache {
        Self::new_state(self)
    }

    fn reset(&self, state: &mut StateCache) {
        Self::reset(self, state);
    }

    fn step(&self, rows: &mut [StepRow<'_>]) -> Result<(), StepFailed> {
        Self::step(self, rows).map_err(|error| StepFailed(error.to_string()))
    }
}

/// The models as the engine takes them.
pub fn steppable(models: &[Arc<Model>]) -> Vec<Arc<dyn StepModel>> {
    models
        .iter()
        .map(|model| Arc::clone(model) as Arc<dyn StepModel>)
        .collect()
}

/// What a model waits for.
pub fn latency(model: &Model) -> Latency {
    let latency = model.latency();
    let millis = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Latency {
        segment: millis(latency.segment),
        right_context: millis(latency.right_context),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_in_the_binary() {
        let models = load(&[], &Device::Cpu).unwrap();
        assert_eq!(
            models.iter().map(|model| model.id()).collect::<Vec<_>>(),
            ["en-emformer"]
        );
        let latency = latency(&models[0]);
        assert!(latency.segment > 0 && latency.segment <= 2000, "{latency:?}");
    }

    #[test]
    fn unknown_names_are_all_reported_with_the_nearest_known_one() {
        let error = load(&["en-emfromer".into(), "/no/such/directory".into()], &Device::Cpu)
            .unwrap_err()
            .to_string();
        assert!(error.contains("did you mean `en-emformer`?"), "{error}");
        assert!(error.contains("/no/such/directory: neither"), "{error}");
    }
}
