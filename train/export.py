"""Checkpoint -> model directory: ``config.json``, ``model.safetensors`` and ``tokens.txt``. The averaged weights and one head go in.

Weights are f16; or, with ``--int8``, those of the linear layers are whole numbers of 8 bits with a scale for each row, half the size.
With ``--decoder`` a text decoder of train_decoder.py goes in too, and its vocabulary beside it.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from data import Tokens
from features import HOP, LEFT, LOG_FLOOR, N_FFT, NUM_MELS, RATE
from model import DIM, HEADS, LEFT_CONTEXT, PERIOD, RIGHT_CONTEXT, SEGMENT

TAP_LAYER = 4                                                  # Whisper's own layers, which a text decoder reads


def config(num_layers, ffn, decoder=None):
    made = {
        "format": 1, "id": "en-emformer", "architecture": "whisper-emformer", "language": "en", "sample_rate": RATE,
        "features": {"type": "streaming_log_mel", "num_mels": NUM_MELS, "n_fft": N_FFT, "hop": HOP, "left_padding": LEFT, "log_floor": LOG_FLOOR},
        "encoder": {"input_dim": NUM_MELS, "dim": DIM, "num_heads": HEADS, "ffn_dim": ffn, "num_layers": num_layers, "segment_length": SEGMENT,
                    "left_context_length": LEFT_CONTEXT, "right_context_length": RIGHT_CONTEXT, "max_memory_size": 0, "activation": "gelu",
                    "tanh_on_mem": False, "output_norm": "final", "position_period": PERIOD},
        "ctc": {"blank": 0}}
    if decoder:
        made["encoder"]["tap_layer"] = TAP_LAYER
        made["text_decoder"] = decoder
    return made | {"license": "MIT AND Apache-2.0"}


def without_key_bias(value):
    """Of keys and values side by side: a key bias adds the same to all scores of a query, which the softmax takes away again."""
    return torch.cat([torch.zeros(DIM), value[DIM:]])


def rounded(state):
    """Rows of matrices as whole numbers from -127 to 127, with ``NAME.scale``, what 1 stands for in each row."""
    made = {}
    for name, value in state.items():
        if value.dim() != 2 or name.endswith("positions"):
            made[name] = value.half().contiguous()
            continue
        scale = value.float().abs().amax(1).clamp_min(1e-12) / 127
        made[name] = (value.float() / scale[:, None]).round().clamp(-127, 127).to(torch.int8).contiguous()
        made[f"{name}.scale"] = scale.contiguous()
    return made


def decoder_state(file):
    """The averaged weights of a text decoder, and its sizes."""
    weights = torch.load(file, map_location="cpu", weights_only=False)["average"]
    state = {f"text_decoder.{name}": without_key_bias(value) if name.endswith("key_value.bias") else value for name, value in weights.items()}
    layers = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("layers."))
    return state, {"num_layers": layers, "num_heads": HEADS, "ffn_dim": weights["layers.0.ffn.0.bias"].shape[0], "max_tokens": weights["positions"].shape[0]}


def export(checkpoint, head, pieces, out, blank_bias=0.0, decoder=None, int8=False):
    """Writes the model directory ``out``."""
    out.mkdir(parents=True, exist_ok=True)
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
            value = without_key_bias(value)
        state[name] = value
    sizes = None
    if decoder:
        more, sizes = decoder_state(decoder)
        state |= more
        shutil.copy(decoder.parent / "text_tokens.txt", out)
    save_file(rounded(state) if int8 else {name: value.half().contiguous() for name, value in state.items()}, out / "model.safetensors")
    layers = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("emformer_layers."))
    (out / "config.json").write_text(json.dumps(config(layers, state["emformer_layers.0.pos_ff.1.bias"].shape[0], sizes), indent=2) + "\n")
    (out / "tokens.txt").write_text("\n".join(Tokens(pieces if head == "pieces" else None).names) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--head", default="characters", choices=["characters", "pieces"])
    parser.add_argument("--pieces", type=Path)
    parser.add_argument("--blank-bias", type=float, default=0.0, help="added to the blank's bias: below 0 for fewer deletions, chosen on a development set")
    parser.add_argument("--decoder", type=Path, help="checkpoint of train_decoder.py")
    parser.add_argument("--int8", action="store_true", help="whole numbers of 8 bits for the linear layers")
    options = parser.parse_args()
    export(options.checkpoint, options.head, options.pieces, options.out, options.blank_bias, options.decoder, options.int8)
