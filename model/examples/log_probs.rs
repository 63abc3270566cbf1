//! Writes what a model hears in an audio file, as a live session would step through it: `log_probs` `(frames, classes) f32`.
//!
//! ```text
//! cargo run --release --example log_probs -- MODEL_DIR AUDIO_FILE OUT.safetensors [FIRST_FRAME NUM_FRAMES]
//! ```
//!
//! The result is what `waxwing decode` takes, and what the golden data and the benchmark of the decoders are made of.

mod clips;

use std::collections::HashMap;
use std::error::Error;
use std::path::Path;

use candle_core::{Device, Tensor};
use clips::Clip;
use waxwing_model::model::Model;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (model, audio, output, part) = match arguments.as_slice() {
        [model, audio, output] => (model, audio, output, None),
        [model, audio, output, first, count] => {
            (model, audio, output, Some((first.parse()?, count.parse()?)))
        }
        _ => {
            return Err(
                "expected MODEL_DIR, AUDIO_FILE, OUT.safetensors and perhaps FIRST_FRAME, NUM_FRAMES".into(),
            );
        }
    };
    let model = Model::load(Path::new(model))?;
    let log_probs = Clip::read(Path::new(audio), "")?.hear(&model, 2)?;
    // Phones may stand behind the classes.
    let (classes, width) = (model.tokens().len(), model.geometry().output_dim);
    let frames = log_probs.len() / width;
    let (first, count) = part.unwrap_or((0, frames));
    let tensor = Tensor::from_vec(log_probs, (frames, width), &Device::Cpu)?;
    let tensor = tensor.narrow(0, first, count)?.narrow(1, 0, classes)?;
    let tensors = HashMap::from([("log_probs".to_owned(), tensor.contiguous()?)]);
    candle_core::safetensors::save(&tensors, output)?;
    Ok(())
}
