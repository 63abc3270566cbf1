//! `torchaudio.models.Emformer`: its state_dict, whose names are kept.

use serde_json::{Map, json};

use super::{Converted, Kind, Options, Tensors, count_layers, dimension, without_prefix};
use crate::error::ModelError;

pub(super) const KIND: Kind = Kind {
    name: "emformer",
    about: "torchaudio.models.Emformer",
    settings: "--set num_heads=8 --set segment_length=4 --set left_context_length=30 --set right_context_length=1 \
               --set max_memory_size=0 --set activation=gelu --set tanh_on_mem=true",
    recognises: |tensors| tensors.contains_key("emformer_layers.0.attention.emb_to_key_value.weight"),
    convert,
};

fn convert(tensors: Tensors, options: &Options) -> Result<Converted, ModelError> {
    let tensors = without_prefix(tensors, "module.");
    let mut derived = Map::new();
    derived.insert(
        "input_dim".into(),
        json!(dimension(
            &tensors,
            "emformer_layers.0.attention.emb_to_query.weight",
            1
        )?),
    );
    derived.insert(
        "ffn_dim".into(),
        json!(dimension(&tensors, "emformer_layers.0.pos_ff.1.weight", 0)?),
    );
    derived.insert(
        "num_layers".into(),
        json!(count_layers(&tensors, "emformer_layers")),
    );
    Ok(Converted::new("emformer", derived, tensors, options))
}
