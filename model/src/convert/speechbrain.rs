//! speechbrain's recurrent classes: state_dicts of RNN, LSTM, GRU, LiGRU, QuasiRNN, of stacks of cells and of the
//! attentional decoder. Names are kept; buffers that hold no weights are left out.

use serde_json::{Map, Value, json};

use super::{Converted, Kind, Options, Tensors, count_layers, dimension, without_prefix};
use crate::error::ModelError;

pub(super) const ENCODER: Kind = Kind {
    name: "recurrent",
    about: "speechbrain.nnet.RNN.RNN, LSTM, GRU, LiGRU or QuasiRNN",
    settings: "--set cell=lstm, and where they differ from the defaults --set nonlinearity=tanh, --set bidirectional=true (ligru, \
               quasirnn), --set output_gate=false, --set zoneout=0.1",
    recognises: |tensors| {
        ["rnn.weight_ih_l0", "rnn.0.u.weight", "qrnn.0.w.weight"]
            .iter()
            .any(|name| tensors.contains_key(*name))
    },
    convert: encoder,
};

pub(super) const CELLS: Kind = Kind {
    name: "recurrent-cells",
    about: "speechbrain.nnet.RNN.RNNCell, LSTMCell or GRUCell",
    settings: "--set nonlinearity=relu (rnn)",
    recognises: |tensors| tensors.contains_key("rnn_cells.0.weight_ih"),
    convert: cells,
};

pub(super) const DECODER: Kind = Kind {
    name: "attentional-rnn-decoder",
    about: "speechbrain.nnet.RNN.AttentionalRNNDecoder",
    settings: "--set scaling=1.0 --set nonlinearity=relu (rnn)",
    recognises: |tensors| tensors.contains_key("rnn.rnn_cells.0.weight_ih"),
    convert: decoder,
};

/// Buffers of LiGRU for training.
const IGNORED: [&str; 4] = ["h_init", "drop_masks", "drop_mask_te", "num_batches_tracked"];

fn weights_only(tensors: Tensors) -> Tensors {
    let mut tensors = without_prefix(tensors, "module.");
    tensors.retain(|name, _| !IGNORED.iter().any(|ignored| name.ends_with(ignored)));
    tensors
}

/// The cell that has as many blocks of rows as a recurrent matrix.
fn cell_of(tensors: &Tensors, recurrent: &str) -> Result<(&'static str, usize), ModelError> {
    let (rows, hidden) = (
        dimension(tensors, recurrent, 0)?,
        dimension(tensors, recurrent, 1)?,
    );
    let cell = match rows.checked_div(hidden) {
        Some(1) => "rnn",
        Some(3) => "gru",
        Some(4) => "lstm",
        _ => {
            return Err(ModelError::Invalid {
                problems: vec![format!(
                    "{recurrent}: expected 1, 3 or 4 times as many rows as columns, found shape [{rows}, {hidden}]"
                )],
            });
        }
    };
    Ok((cell, hidden))
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn encoder(tensors: Tensors, options: &Options) -> Result<Converted, ModelError> {
    let tensors = weights_only(tensors);
    let set = |name: &str| options.set.get(name).and_then(Value::as_bool);
    let derived = if tensors.contains_key("qrnn.0.w.weight") {
        let gates = if set("output_gate").unwrap_or(true) { 3 } else { 2 };
        json!({"cell": "quasirnn", "input_size": dimension(&tensors, "qrnn.0.w.weight", 1)?,
            "hidden_size": dimension(&tensors, "qrnn.0.w.weight", 0)? / gates, "num_layers": count_layers(&tensors, "qrnn")})
    } else if tensors.contains_key("rnn.0.u.weight") {
        let batch = tensors.contains_key("rnn.0.norm.running_mean");
        json!({"cell": "ligru", "input_size": dimension(&tensors, "rnn.0.w.weight", 1)?,
            "hidden_size": dimension(&tensors, "rnn.0.u.weight", 1)?, "num_layers": count_layers(&tensors, "rnn"),
            "normalization": if batch { "batchnorm" } else { "layernorm" }})
    } else {
        let (cell, hidden) = cell_of(&tensors, "rnn.weight_hh_l0")?;
        let layers = (0..)
            .take_while(|layer| tensors.contains_key(&format!("rnn.weight_hh_l{layer}")))
            .count();
        json!({"cell": cell, "input_size": dimension(&tensors, "rnn.weight_ih_l0", 1)?, "hidden_size": hidden,
            "num_layers": layers, "bias": tensors.contains_key("rnn.bias_ih_l0"),
            "bidirectional": tensors.contains_key("rnn.weight_hh_l0_reverse")})
    };
    Ok(Converted::new("recurrent", object(derived), tensors, options))
}

fn stack(tensors: &Tensors, prefix: &str) -> Result<Map<String, Value>, ModelError> {
    let (cell, hidden) = cell_of(tensors, &format!("{prefix}rnn_cells.0.weight_hh"))?;
    let first = format!("{prefix}rnn_cells.0");
    Ok(object(json!({"cell": cell, "hidden_size": hidden,
        "input_size": dimension(tensors, &format!("{first}.weight_ih"), 1)?,
        "num_layers": count_layers(tensors, &format!("{prefix}rnn_cells")),
        "bias": tensors.contains_key(&format!("{first}.bias_ih"))})))
}

fn cells(tensors: Tensors, options: &Options) -> Result<Converted, ModelError> {
    let tensors = weights_only(tensors);
    let derived = stack(&tensors, "")?;
    Ok(Converted::new("recurrent-cells", derived, tensors, options))
}

fn decoder(tensors: Tensors, options: &Options) -> Result<Converted, ModelError> {
    let tensors = weights_only(tensors);
    let mut derived = stack(&tensors, "rnn.")?;
    let (attention, kind) = if tensors.contains_key("attn.key_linear.weight") {
        ("attn.key_linear.weight", "keyvalue")
    } else if tensors.contains_key("attn.conv_loc.weight") {
        ("attn.mlp_enc.weight", "location")
    } else {
        ("attn.mlp_enc.weight", "content")
    };
    let attn_dim = dimension(&tensors, attention, 0)?;
    let joined = dimension(&tensors, "rnn.rnn_cells.0.weight_ih", 1)?;
    if kind == "location" {
        derived.insert(
            "channels".into(),
            json!(dimension(&tensors, "attn.conv_loc.weight", 0)?),
        );
        let taps = dimension(&tensors, "attn.conv_loc.weight", 2)?;
        derived.insert("kernel_size".into(), json!(taps / 2));
    }
    if let Some(cell) = derived.remove("cell") {
        derived.insert("rnn_type".into(), cell);
    }
    derived.insert("attn_type".into(), json!(kind));
    derived.insert("attn_dim".into(), json!(attn_dim));
    derived.insert("enc_dim".into(), json!(dimension(&tensors, attention, 1)?));
    derived.insert("input_size".into(), json!(joined.saturating_sub(attn_dim)));
    Ok(Converted::new(
        "attentional-rnn-decoder",
        derived,
        tensors,
        options,
    ))
}
