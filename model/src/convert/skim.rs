//! espnet's SkiM and csr-pytorch's ConvNet2: their state_dicts, whose names are kept but for the latter's head.

use serde_json::{Map, json};

use super::{Converted, Kind, Options, Tensors, count_layers, dimension, without_prefix};
use crate::encoder::csr::PHONEMES;
use crate::error::ModelError;

pub(super) const SKIM: Kind = Kind {
    name: "skim",
    about: "espnet2.enh.layers.skim.SkiM",
    settings: "--set segment_size=20 --set norm_type=cLN, and with overlapping segments --set seg_overlap=true",
    recognises: |tensors| tensors.contains_key("seg_lstms.0.lstm.weight_ih_l0"),
    convert: skim,
};

pub(super) const CSR: Kind = Kind {
    name: "csr-convnet",
    about: "csr-pytorch's ConvNet2",
    settings: "",
    recognises: |tensors| tensors.contains_key("layer4.0.weight") && tensors.contains_key("fc.0.weight"),
    convert: csr,
};

fn skim(tensors: Tensors, options: &Options) -> Result<Converted, ModelError> {
    let tensors = without_prefix(without_prefix(tensors, "module."), "skim.");
    let has = |name: &str| tensors.contains_key(name);
    let num_blocks = count_layers(&tensors, "seg_lstms");
    let both = (
        has("mem_lstms.0.h_net.proj.weight"),
        has("mem_lstms.0.c_net.proj.weight"),
    );
    let mut derived = Map::new();
    let mut insert = |name: &str, value: serde_json::Value| derived.insert(name.into(), value);
    insert(
        "input_size",
        json!(dimension(&tensors, "seg_lstms.0.lstm.weight_ih_l0", 1)?),
    );
    insert(
        "hidden_size",
        json!(dimension(&tensors, "seg_lstms.0.lstm.weight_hh_l0", 1)?),
    );
    insert(
        "output_size",
        json!(dimension(&tensors, "output_fc.1.weight", 0)?),
    );
    insert("num_blocks", json!(num_blocks));
    insert(
        "bidirectional",
        json!(has("seg_lstms.0.lstm.weight_hh_l0_reverse")),
    );
    // Neither `id` nor a missing MemLSTM has tensors; with one block nothing is handed on.
    match both {
        (true, true) => drop(insert("mem_type", json!("hc"))),
        (true, false) => drop(insert("mem_type", json!("h"))),
        (false, true) => drop(insert("mem_type", json!("c"))),
        (false, false) if num_blocks > 1 && !options.set.contains_key("mem_type") => {
            return Err(ModelError::Invalid {
                problems: vec!["encoder.mem_type: expected --set mem_type=id or --set mem_type=null: the file has no MemLSTM, which \
                                tells neither"
                    .into()],
            });
        }
        (false, false) => {}
    }
    Ok(Converted::new("skim", derived, tensors, options))
}

fn csr(tensors: Tensors, options: &Options) -> Result<Converted, ModelError> {
    let mut tensors = without_prefix(tensors, "module.");
    tensors.retain(|name, _| !name.ends_with("num_batches_tracked"));
    for part in ["weight", "bias"] {
        if let Some(tensor) = tensors.remove(&format!("fc.0.{part}")) {
            tensors.insert(format!("head.{part}"), tensor);
        }
    }
    let variant = if tensors.contains_key("layer3p.0.weight") {
        "six_layers"
    } else if tensors.contains_key("rnn3.0.weight_ih_l0") {
        "three_lstm"
    } else {
        "two_lstm"
    };
    let derived = Map::from_iter([("variant".to_owned(), json!(variant))]);
    let mut converted = Converted::new("csr-convnet", derived, tensors, options);
    converted
        .config
        .insert("features".into(), json!({"type": "csr_spectrogram"}));
    if options.tokens.is_none() {
        let spellings = PHONEMES.iter().map(|class| match *class {
            "_" => "<blank>\n".to_owned(),
            " " => "▁\n".to_owned(),
            phoneme => format!("{phoneme}\n"),
        });
        converted.tokens = Some(spellings.collect());
    }
    Ok(converted)
}
