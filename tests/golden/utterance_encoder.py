"""Golden data for the utterance encoder: what OpenAI's ``whisper`` package computes for small encoders with random weights.

``python utterance_encoder.py`` writes ``utterance_encoder.json`` and ``utterance_encoder.safetensors`` next to itself. The original always reads one length: here that of the
utterance and the half second of silence behind it. Silence is zeros, so that the original's padding of its first convolution at the end is
silence, too. Its last norm belongs to the port's text decoder. Names are mapped here.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from whisper.model import AudioEncoder

HERE = Path(__file__).parent
PADDING_FRAMES, RANGE = 25, 2.0
# Features, width, heads, layers, frames of the utterance.
SIZES = [(5, 12, 3, 2, 7), (8, 32, 4, 1, 120), (4, 20, 1, 3, 1)]


def original(features, dim, heads, layers, frames):
    """An encoder without its last norm; all weights exact in half precision."""
    model = AudioEncoder(features, frames + PADDING_FRAMES, dim, heads, layers).eval()
    for name, value in model.named_parameters():
        is_norm = value.dim() == 1 and name.endswith("weight")
        scale = 0.3 if value.dim() == 1 else 1.4 / value[0].numel() ** 0.5
        value.copy_((torch.randn(value.shape) * scale + is_norm).half())
    model.ln_post = torch.nn.Identity()
    return model


def renamed(model, layers):
    """The weights under the names of the port."""
    state = model.state_dict()
    mapped = {f"{conv}.{kind}": state[f"{conv}.{kind}"] for conv in ("conv1", "conv2") for kind in ("weight", "bias")}
    for layer in range(layers):
        to, own = f"layers.{layer}", f"blocks.{layer}"
        key, value = f"{own}.attn.key", f"{own}.attn.value"
        mapped[f"{to}.self_attention.key_value.weight"] = torch.cat([state[f"{key}.weight"], state[f"{value}.weight"]])
        mapped[f"{to}.self_attention.key_value.bias"] = torch.cat([torch.zeros_like(state[f"{value}.bias"]), state[f"{value}.bias"]])
        for kind in ("weight", "bias"):
            for new, old in (("self_norm", "attn_ln"), ("self_attention.query", "attn.query"), ("self_attention.out", "attn.out"),
                             ("ffn_norm", "mlp_ln"), ("ffn.0", "mlp.0"), ("ffn.3", "mlp.2")):
                mapped[f"{to}.{new}.{kind}"] = state[f"{own}.{old}.{kind}"]
    return {f"utterance_encoder.{name}": value.half() for name, value in mapped.items()}


def main():
    table, tensors = [], {}
    for case, (features, dim, heads, layers, frames) in enumerate(SIZES):
        torch.manual_seed(case)
        model = original(features, dim, heads, layers, frames)
        heard = torch.rand(2 * frames, features) * 4 - 2.5
        raised = torch.maximum(heard, heard.max() - RANGE)
        silent = torch.zeros(2 * PADDING_FRAMES, features)
        encoded = model(torch.cat([raised, silent]).T[None])[0]
        tensors |= {f"{case}.features": heard, f"{case}.encoded": encoded}
        tensors |= {f"{case}.weights.{name}": value for name, value in renamed(model, layers).items()}
        table.append({"features": features, "config": {"dim": dim, "num_layers": layers, "num_heads": heads, "ffn_dim": 4 * dim,
                                                       "max_frames": frames + PADDING_FRAMES}})
    (HERE / "utterance_encoder.json").write_text(json.dumps(table) + "\n")
    save_file({name: value.contiguous() for name, value in tensors.items()}, HERE / "utterance_encoder.safetensors")


if __name__ == "__main__":
    with torch.no_grad():
        main()
