"""Checkpoint -> model directory: ``config.json``, ``model.safetensors`` and ``tokens.txt``. The averaged weights and one head go in; of several checkpoints, the mean of them.

Weights are f16; or, with ``--bits``, those of the linear layers are whole numbers of 8 or 6 bits with a scale for each row.
With ``--listener`` a second listener of train_listener.py goes in too, and its vocabulary beside it; with ``--phone-head`` what train_phone_head.py taught it as well, and the pronunciations.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

import fsmn
import phone_head
from data import Tokens
from evaluate import LISTENER, mean_weights
from features import HOP, LEFT, LOG_FLOOR, N_FFT, NUM_MELS, RATE
from model import DIM, HEADS, LEFT_CONTEXT, PERIOD, RIGHT_CONTEXT, SEGMENT
from phones import NAMES

def config(num_layers, ffn, listener=None):
    """``config.json`` of the larger model; the parts of a second listener by their names."""
    made = {
        "format": 1, "id": "en-emformer", "architecture": "whisper-emformer", "language": "en", "sample_rate": RATE,
        "features": {"type": "streaming_log_mel", "num_mels": NUM_MELS, "n_fft": N_FFT, "hop": HOP, "left_padding": LEFT, "log_floor": LOG_FLOOR},
        "encoder": {"input_dim": NUM_MELS, "dim": DIM, "num_heads": HEADS, "ffn_dim": ffn, "num_layers": num_layers, "segment_length": SEGMENT,
                    "left_context_length": LEFT_CONTEXT, "right_context_length": RIGHT_CONTEXT, "max_memory_size": 0, "activation": "gelu",
                    "tanh_on_mem": False, "output_norm": "final", "position_period": PERIOD},
        "ctc": {"blank": 0}}
    if listener:
        made |= {"phones": {"names": NAMES}} if "phone_head" in listener else {}
        made["second_listener"] = listener
    return made | {"license": "MIT AND Apache-2.0"}


def without_key_bias(value):
    """Of keys and values side by side: a key bias adds the same to all scores of a query, which the softmax takes away again."""
    return torch.cat([torch.zeros(DIM), value[DIM:]])


MOST_TOKENS = 160                                              # places of a text: an utterance is heard again after eight seconds at most
SHARED_LAYERS = 1                                              # of Whisper's, with the stem: the streaming encoder has them as they are, and lends them


def scales(value, most):
    """What 1 stands for in each row if -most..most are the whole numbers: cut where the squared error is least."""
    widest = value.abs().amax(1).clamp_min(1e-12)
    best = widest.new_full(widest.shape, torch.inf)
    found = widest / most
    for share in torch.linspace(0.5, 1, 26):
        scale = widest * share / most
        error = ((value / scale[:, None]).round().clamp(-most - 1, most) * scale[:, None] - value).square().sum(1)
        found = torch.where(error < best, scale, found)
        best = torch.minimum(error, best)
    return found


def packed(whole):
    """(rows, columns) from -32 to 31 -> (rows, columns / 4, 3) bytes: four numbers of 6 bits in three, the lowest bits first."""
    four = (whole.int() + 32).unflatten(1, (-1, 4))
    bits = four[..., 0] | four[..., 1] << 6 | four[..., 2] << 12 | four[..., 3] << 18
    return torch.stack([bits & 255, bits >> 8 & 255, bits >> 16], -1).to(torch.uint8)


def rounded(state, bits):
    """Rows of matrices as whole numbers of 8 or 6 bits, with ``NAME.scale``, what 1 stands for in each row; those of convolutions always 8. The second listener's scales are f16, since its products are in whole numbers."""
    made = {}
    for name, value in state.items():
        if value.dim() < 2 or bits == 16:
            made[name] = value.half().contiguous()
            continue
        rows, own = value.float().flatten(1), bits if value.dim() == 2 and value.shape[1] % 4 == 0 else 8
        most = 2 ** (own - 1) - 1
        scale = scales(rows, most) if own < 8 else rows.abs().amax(1).clamp_min(1e-12) / most
        if name.startswith(LISTENER):
            scale = scale.clamp_min(2 ** -14).half()           # what f16 has all its bits for
        whole = (rows / scale.float()[:, None]).round().clamp(-most - 1, most)
        made[name] = packed(whole) if own == 6 else whole.to(torch.int8).reshape(value.shape).contiguous()
        made[f"{name}.scale"] = scale.contiguous()
    return made


def second_listener(file):
    """The averaged weights of a second listener: Whisper's encoder under our names, and the text decoder; and its sizes."""
    weights = torch.load(file, map_location="cpu", weights_only=False)["average"]
    state = {}
    for name, value in weights.items():
        if not name.startswith("encoder."):
            state[f"text_decoder.{name}"] = without_key_bias(value) if name.endswith("key_value.bias") else value
    state["text_decoder.positions"] = state["text_decoder.positions"][:MOST_TOKENS]
    own = {name[len("encoder."):]: value for name, value in weights.items() if name.startswith("encoder.")}
    for name, value in listening_names(own):
        state[f"utterance_encoder.{name}"] = without_key_bias(value) if name.endswith("key_value.bias") else value
    count = lambda prefix: 1 + max(int(name[len(prefix):].split(".")[0]) for name in state if name.startswith(prefix))
    encoder, decoder = "utterance_encoder.layers.", "text_decoder.layers."
    return state, {
        "encoder": {"dim": DIM, "num_layers": count(encoder), "num_heads": HEADS, "ffn_dim": own["emformer_layers.1.pos_ff.1.bias"].shape[0],
                    "shared_layers": SHARED_LAYERS, "max_frames": PERIOD},
        "decoder": {"num_layers": count(decoder), "num_heads": HEADS, "ffn_dim": state[f"{decoder}0.ffn.0.bias"].shape[0], "max_tokens": state["text_decoder.positions"].shape[0]}}


def listening_names(weights):
    """Whisper's layers as an Emformer's have them -> as the second listener's, but for those that it shares. Its last norm is the decoder's."""
    parts = {"layer_norm_input": "self_norm", "attention.emb_to_query": "self_attention.query", "attention.emb_to_key_value": "self_attention.key_value",
             "attention.out_proj": "self_attention.out", "pos_ff.0": "ffn_norm", "pos_ff.1": "ffn.0", "pos_ff.4": "ffn.3"}
    for name, value in weights.items():
        if name.startswith("emformer_layers.") and int(name.split(".")[1]) >= SHARED_LAYERS:
            _, layer, part = name.split(".", 2)
            part, kind = part.rsplit(".", 1)
            yield f"layers.{layer}.{parts[part]}.{kind}", value


def export(checkpoints, head, pieces, out, blank_bias=0.0, listener=None, bits=16, pronunciations=None, learnt_phones=None):
    """Writes the model directory ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    weights = mean_weights(checkpoints)
    if "layers.0.linear.weight" in weights:
        # The phones in the middle were asked for while it learnt.
        weights = {name.replace("spoken.", "phones."): value for name, value in weights.items() if not name.startswith("phones.")}
        if pronunciations:
            shutil.copy(pronunciations, out / "pronunciations.txt.gz")
        else:
            weights = {name: value for name, value in weights.items() if not name.startswith("phones.")}
        return write(out, weights, bits, fsmn.config(LOG_FLOOR, LEFT, N_FFT, RATE, bool(pronunciations)), pieces)
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
    if listener:
        more, sizes = second_listener(listener)
        state |= more
        shutil.copy(listener.parent / "text_tokens.txt", out)
        if learnt_phones:
            more, sizes["phone_head"] = phone_head.exported(mean_weights([learnt_phones]))
            state |= more
            shutil.copy(pronunciations, out / "pronunciations.txt.gz")
    layers = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("emformer_layers."))
    write(out, state, bits, config(layers, state["emformer_layers.0.pos_ff.1.bias"].shape[0], sizes), pieces if head == "pieces" else None)


def write(out, state, bits, settings, pieces):
    """The three files of a model directory."""
    save_file(rounded(state, bits), out / "model.safetensors")
    (out / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (out / "tokens.txt").write_text("\n".join(Tokens(pieces).names) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", type=Path, nargs="+", help="one, or several of one run: the mean of their weights")
    parser.add_argument("out", type=Path)
    parser.add_argument("--head", default="characters", choices=["characters", "pieces"])
    parser.add_argument("--pieces", type=Path)
    parser.add_argument("--blank-bias", type=float, default=0.0, help="added to the blank's bias: below 0 for fewer deletions, chosen on a development set")
    parser.add_argument("--listener", type=Path, help="checkpoint of train_listener.py")
    parser.add_argument("--phone-head", type=Path, help="checkpoint of train_phone_head.py, for the listener")
    parser.add_argument("--pronunciations", type=Path, help="of pronunciations.py, for a model that says phones; without it, a small one says none")
    parser.add_argument("--bits", type=int, default=16, choices=[6, 8, 16], help="of the linear layers' weights")
    options = parser.parse_args()
    export(options.checkpoints, options.head, options.pieces, options.out, options.blank_bias, options.listener, options.bits, options.pronunciations, options.phone_head)
