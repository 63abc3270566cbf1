"""Checkpoint -> model directory: ``config.json``, ``model.safetensors`` (f16) and ``tokens.txt``. The averaged weights and one head go in."""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from data import Tokens
from features import HOP, LEFT, LOG_FLOOR, N_FFT, NUM_MELS, RATE
from model import DIM, HEADS, LEFT_CONTEXT, PERIOD, RIGHT_CONTEXT, SEGMENT


def config(num_layers, ffn):
    return {
        "format": 1, "id": "en-emformer", "architecture": "whisper-emformer", "language": "en", "sample_rate": RATE,
        "features": {"type": "streaming_log_mel", "num_mels": NUM_MELS, "n_fft": N_FFT, "hop": HOP, "left_padding": LEFT, "log_floor": LOG_FLOOR},
        "encoder": {"input_dim": NUM_MELS, "dim": DIM, "num_heads": HEADS, "ffn_dim": ffn, "num_layers": num_layers, "segment_length": SEGMENT,
                    "left_context_length": LEFT_CONTEXT, "right_context_length": RIGHT_CONTEXT, "max_memory_size": 0, "activation": "gelu",
                    "tanh_on_mem": False, "output_norm": "final", "position_period": PERIOD},
        "ctc": {"blank": 0}, "license": "MIT AND Apache-2.0"}


def export(checkpoint, head, pieces, out, blank_bias=0.0):
    """Writes the model directory ``out``."""
    weights = torch.load(checkpoint, map_location="cpu", weights_only=False)["average"]
    state = {}
    for name, value in weights.items():
        if name.startswith("heads."):
            if not name.startswith(f"heads.{head}."):
                continue
            name = "head" + name[len(f"heads.{head}"):]
            if name == "head.bias":
                value = value.clone()
                value[0] += blank_bias
        elif name.endswith("emb_to_key_value.bias"):
            # A key bias adds the same to all scores of a query, which the softmax takes away again.
            value = torch.cat([torch.zeros(DIM), value[DIM:]])
        state[name] = value.half().contiguous()
    out.mkdir(parents=True, exist_ok=True)
    save_file(state, out / "model.safetensors")
    layers = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("emformer_layers."))
    (out / "config.json").write_text(json.dumps(config(layers, state["emformer_layers.0.pos_ff.1.bias"].shape[0]), indent=2) + "\n")
    (out / "tokens.txt").write_text("\n".join(Tokens(pieces if head == "pieces" else None).names) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--head", default="characters", choices=["characters", "pieces"])
    parser.add_argument("--pieces", type=Path)
    parser.add_argument("--blank-bias", type=float, default=0.0, help="added to the blank's bias: below 0 for fewer deletions, chosen on a development set")
    options = parser.parse_args()
    export(options.checkpoint, options.head, options.pieces, options.out, options.blank_bias)
