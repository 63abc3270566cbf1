//! The stack of d5555/FSMN: its state_dict, whose names are kept. The cell is known by its parameters.

use candle_core::DType;
use serde_json::{Map, Value, json};

use super::{Converted, Kind, Options, Tensors, count_layers, dimension, invalid, without_prefix};
use crate::error::ModelError;

pub(super) const KIND: Kind = Kind {
    name: "fsmn",
    about: "FSMN of d5555/FSMN, with any of its four cells",
    settings: "--set memory_size=20 (sfsmn, csfsmn), and where they differ from the defaults --set bidirectional=true \
               --set activation=gelu",
    recognises: |tensors| tensors.keys().any(|name| name.ends_with("fsmn_layers.0._W1")),
    convert,
};

const TABLE: &str = "fsmn_layers.0.embeddings_table";

fn convert(tensors: Tensors, options: &Options) -> Result<Converted, ModelError> {
    let mut tensors = without_prefix(tensors, "module.");
    let has = |kind: &str| tensors.contains_key(&format!("fsmn_layers.0.{kind}"));
    let cell = match (has("_bias1"), has("embeddings_table")) {
        (false, false) => "sfsmn",
        (false, true) => "vfsmn",
        (true, false) => "csfsmn",
        (true, true) => "cvfsmn",
    };
    let size = |name: &str, at: usize| dimension(&tensors, name, at);
    let mut derived = Map::new();
    derived.insert("cell".into(), json!(cell));
    for (name, value) in [
        ("input_size", size("fsmn_layers.0._W1", 0)?),
        ("hidden_size", size("fsmn_layers.0._W1", 1)?),
        ("output_size", size("linear2.weight", 0)?),
        ("d_ff", size("linear1.weight", 0)?),
        ("n_layers", count_layers(&tensors, "fsmn_layers")),
    ] {
        derived.insert(name.into(), json!(value));
    }
    if has("embeddings_table") {
        let (memory, table) = match cell {
            "cvfsmn" => compact_table(&tensors, size(TABLE, 0)?, options)?,
            _ => (size(TABLE, 0)?.saturating_sub(1), "n_plus_2"),
        };
        derived.insert("memory_size".into(), json!(memory));
        derived.insert("table".into(), json!(table));
    }
    if options.tokens.is_some() {
        // Its outputs are classes with spellings: the last layer becomes the head.
        derived.remove("output_size");
        for part in ["weight", "bias"] {
            if let Some(tensor) = tensors.remove(&format!("linear2.{part}")) {
                tensors.insert(format!("head.{part}"), tensor);
            }
        }
    }
    Ok(Converted::new("fsmn", derived, tensors, options))
}

/// The memory's size and the layout of a cvFSMN's table of `rows` rows. Today's repository puts a row of ones at its end, for the current
/// frame, up to commit 172dd9e there was none.
fn compact_table(
    tensors: &Tensors,
    rows: usize,
    options: &Options,
) -> Result<(usize, &'static str), ModelError> {
    let given = options.set.get("memory_size").and_then(Value::as_u64);
    match given {
        Some(memory) if memory + 1 == rows as u64 => Ok((rows - 1, "n_plus_1")),
        Some(memory) if memory + 2 == rows as u64 => Ok((rows - 2, "n_plus_2")),
        Some(memory) => Err(invalid(format!(
            "{TABLE}: expected {} rows for --set memory_size={memory} ({} up to commit 172dd9e), found {rows}",
            memory.saturating_add(2),
            memory.saturating_add(1)
        ))),
        // The original writes the ones there whenever it runs.
        None if ends_in_ones(tensors)? => Ok((rows.saturating_sub(2), "n_plus_2")),
        None => Err(invalid(format!(
            "memory_size: missing; a table of {rows} rows is that of --set memory_size={} today, and was that of {} up to commit 172dd9e",
            rows.saturating_sub(2),
            rows.saturating_sub(1)
        ))),
    }
}

fn ends_in_ones(tensors: &Tensors) -> Result<bool, ModelError> {
    let Some(table) = tensors.get(TABLE).filter(|table| table.elem_count() > 0) else {
        return Ok(false);
    };
    let row = table.narrow(0, table.dim(0)? - 1, 1)?;
    let row: Vec<f64> = row.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
    Ok(row.iter().all(|&value| value == 1.0))
}
