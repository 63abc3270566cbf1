"""Golden data for the whisper-emformer: what ``train/reference.py`` computes for a tiny model with random weights.

``python whisper_emformer.py`` writes ``whisper_emformer/`` (a model directory) and ``whisper_emformer.safetensors`` next to itself.
``python whisper_emformer.py MODEL FEATURES OUTPUT`` runs a model directory on the tensor ``features (1, frames, features)`` of one file and
writes ``log_probs (1, output frames, classes)`` to another.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent / "train"))
import model as training  # noqa: E402
from reference import Reference  # noqa: E402

FEATURES, DIM, FFN, CLASSES, PERIOD, LAYERS, SEGMENTS = 6, 12, 20, 7, 21, 2, 7
CONFIG = {
    "format": 1, "id": "tiny", "architecture": "whisper-emformer", "language": "en", "sample_rate": 16000,
    "features": {"type": "streaming_log_mel", "num_mels": FEATURES, "n_fft": 400, "hop": 160, "left_padding": 200, "log_floor": 1e-7},
    "encoder": {"input_dim": FEATURES, "dim": DIM, "num_heads": 3, "ffn_dim": FFN, "num_layers": LAYERS, "segment_length": 4,
                "left_context_length": 10, "right_context_length": 3, "max_memory_size": 0, "activation": "gelu",
                "tanh_on_mem": False, "output_norm": "final", "position_period": PERIOD},
    "ctc": {"blank": 0},
}


def weights():
    shapes = {"stem.conv1": (DIM, FEATURES, 3), "stem.conv2": (DIM, DIM, 3), "layer_norm": (DIM,), "head": (CLASSES, DIM)}
    for layer in range(LAYERS):
        shapes |= {f"emformer_layers.{layer}.{name}": shape for name, shape in {
            "attention.emb_to_key_value": (2 * DIM, DIM), "attention.emb_to_query": (DIM, DIM), "attention.out_proj": (DIM, DIM),
            "pos_ff.0": (DIM,), "pos_ff.1": (FFN, DIM), "pos_ff.4": (DIM, FFN), "layer_norm_input": (DIM,)}.items()}
    made = {}
    for name, shape in shapes.items():
        made[f"{name}.weight"] = torch.randn(shape) * 0.4 + (len(shape) == 1)
        made[f"{name}.bias"] = torch.randn(shape[0]) * 0.3
    return made


def stream(reference, features):
    """(frames, features) → (output frames, classes) log-probabilities, by the reference's own streaming calls."""
    encoder = reference.encoder
    length, right = encoder["segment_length"], encoder["right_context_length"]
    first = 2 * (length + right) + 1
    held, past = reference.stem(features[:first])
    state, outputs = reference.initial_state(), []
    output, state = reference.forward_segment(held, state)
    outputs.append(output)
    for begin in range(first, features.shape[0] - 2 * length + 1, 2 * length):
        new, past = reference.stem(features[begin:begin + 2 * length], past)
        held = torch.cat([held[length:], new])
        output, state = reference.forward_segment(held, state)
        outputs.append(output)
    return torch.cat(outputs)


def main(arguments):
    if arguments:
        folder, source, target = arguments
        features = load_file(source)["features"]
        save_file({"log_probs": stream(Reference(folder), features[0])[None].contiguous()}, target)
        return
    torch.manual_seed(21)
    training.DIM, training.PERIOD = DIM, PERIOD
    folder = HERE / "whisper_emformer"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")
    (folder / "tokens.txt").write_text("\n".join(["<blank>", "▁", *"abcde"]) + "\n", encoding="utf-8")
    save_file({name: value.half() for name, value in weights().items()}, folder / "model.safetensors")
    encoder = CONFIG["encoder"]
    frames = 2 * (SEGMENTS * encoder["segment_length"] + encoder["right_context_length"]) + 1
    features = torch.randn(frames, FEATURES)
    log_probs = stream(Reference(folder), features)
    save_file({"features": features[None], "log_probs": log_probs[None].contiguous()}, HERE / "whisper_emformer.safetensors")


if __name__ == "__main__":
    with torch.no_grad():
        main(sys.argv[1:])
