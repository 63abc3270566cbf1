//! Any architecture whose tensors are named as its original's `state_dict` names them: what to make of the checkpoint is
//! said whole, nothing is derived.

use serde_json::{Map, Value};

use super::{Converted, Kind, Options, Tensors, without_prefix};
use crate::error::ModelError;

pub(super) const KIND: Kind = Kind {
    name: "as-is",
    about: "any architecture, by --set architecture=NAME and all its sizes",
    settings: "--set architecture=emformer --set input_dim=512, and so on: `encoder` of its config.json",
    recognises: |_| true,
    convert,
};

/// What originals keep beside their weights: counters, buffers of training, states of a batch.
const NO_WEIGHTS: [&str; 4] = ["num_batches_tracked", "h_init", "drop_masks", "drop_mask_te"];

fn convert(tensors: Tensors, options: &Options) -> Result<Converted, ModelError> {
    let mut options = options.clone();
    let Some(Value::String(architecture)) = options.set.remove("architecture") else {
        return Err(ModelError::Invalid {
            problems: vec![format!(
                "architecture: missing; this kind derives nothing, here: {}",
                KIND.settings
            )],
        });
    };
    let mut tensors = without_prefix(tensors, "module.");
    tensors.retain(|name, _| {
        !NO_WEIGHTS
            .iter()
            .any(|last| name.rsplit('.').next() == Some(last))
    });
    Ok(Converted::new(&architecture, Map::new(), tensors, &options))
}
