"""Golden data for the text decoder: what OpenAI's ``whisper`` package computes for small decoders with random weights.

``python text_decoder.py`` writes ``text_decoder.json`` and ``text_decoder.safetensors`` next to itself. The original's keys have no bias, its
queries, keys and values are layers of their own, and the norm in front of the cross-attention is the last one of its encoder: the names are mapped
here.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from whisper.model import ModelDimensions, Whisper

HERE = Path(__file__).parent
# Width, heads, layers, classes, positions, frames.
SIZES = [(32, 4, 2, 40, 20, 17), (12, 3, 3, 23, 16, 5), (20, 1, 1, 37, 12, 1)]
# By which the greedy texts of the first two end by themselves, and the last one only where there are no more positions.
SEEDS = [7, 11, 2]


def original(dim, heads, layers, classes, positions, frames):
    """A whole Whisper, whose encoder only lends its last norm; all weights exact in half precision."""
    model = Whisper(ModelDimensions(2, frames, dim, 1, 1, classes, positions, dim, heads, layers)).eval()
    for name, value in model.named_parameters():
        is_norm = value.dim() == 1 and name.endswith("weight")
        scale = 0.3 if value.dim() == 1 else 0.3 if "embedding" in name else 1.4 / value.shape[1] ** 0.5
        value.copy_((torch.randn(value.shape) * scale + is_norm).half())
    return model


def renamed(model):
    """The weights under the names of the port."""
    state = {name.removeprefix("decoder."): value for name, value in model.state_dict().items() if name.startswith("decoder.")}
    mapped = {"embedding.weight": state["token_embedding.weight"], "positions": state["positional_embedding"]}
    for kind in ("weight", "bias"):
        mapped[f"norm.{kind}"] = state[f"ln.{kind}"]
        mapped[f"input_norm.{kind}"] = getattr(model.encoder.ln_post, kind)
    for layer in range(model.dims.n_text_layer):
        to, own = f"layers.{layer}", f"blocks.{layer}"
        for new, old in (("self", "attn"), ("cross", "cross_attn")):
            key, value = (f"{own}.{old}.{part}" for part in ("key", "value"))
            mapped[f"{to}.{new}_attention.key_value.weight"] = torch.cat([state[f"{key}.weight"], state[f"{value}.weight"]])
            mapped[f"{to}.{new}_attention.key_value.bias"] = torch.cat([torch.zeros(model.dims.n_text_state), state[f"{value}.bias"]])
            for kind in ("weight", "bias"):
                mapped[f"{to}.{new}_norm.{kind}"] = state[f"{own}.{old}_ln.{kind}"]
                for part in ("query", "out"):
                    mapped[f"{to}.{new}_attention.{part}.{kind}"] = state[f"{own}.{old}.{part}.{kind}"]
        for kind in ("weight", "bias"):
            mapped[f"{to}.ffn_norm.{kind}"] = state[f"{own}.mlp_ln.{kind}"]
            mapped[f"{to}.ffn.0.{kind}"] = state[f"{own}.mlp.0.{kind}"]
            mapped[f"{to}.ffn.3.{kind}"] = state[f"{own}.mlp.2.{kind}"]
    return {f"text_decoder.{name}": value.half() for name, value in mapped.items()}


def greedy(model, heard, start, most):
    """The original's own cache, one token a step: ``(tokens, score with the end's, log-probs of every step)``; neither the beginning nor
    what says that there are no times can follow."""
    cache, hooks = model.install_kv_cache_hooks()
    given, tokens, score, steps = torch.tensor([[start, start + 1]]), [], 0.0, []
    while True:
        log_probs = model.decoder(given, heard[None], kv_cache=cache)[0, -1].log_softmax(-1)
        steps.append(log_probs)
        allowed = log_probs.clone()
        allowed[start:start + 2] = -torch.inf
        best = start + 2 if len(tokens) == most else int(allowed.argmax())
        score += float(log_probs[best])
        if best == start + 2:
            break
        tokens.append(best)
        given = torch.tensor([[best]])
    for hook in hooks:
        hook.remove()
    return tokens, score, torch.stack(steps)


def main():
    table, tensors = [], {}
    for case, (seed, sizes) in enumerate(zip(SEEDS, SIZES)):
        torch.manual_seed(seed)
        dim, heads, layers, classes, positions, frames = sizes
        model = original(*sizes)
        encoded = torch.randn(frames, dim) * 2 + 0.5
        heard = model.encoder.ln_post(encoded)
        start = classes - 3
        tokens, score, steps = greedy(model, heard, start, positions - 2)
        base = torch.randint(start, (positions - 2,)).tolist()
        texts = [[], base[:1], base[:4], base, base[:3] + [base[0]], torch.randint(start, (6,)).tolist()]
        scores = []
        for index, text in enumerate(texts):
            given = torch.tensor([[start, start + 1] + text])
            log_probs = model.decoder(given, heard[None])[0, 1:].log_softmax(-1)
            following = torch.tensor(text + [start + 2])
            scores.append(float(log_probs.gather(1, following[:, None]).double().sum()))
            if index in (2, 5):
                tensors[f"{case}.log_probs.{index}"] = log_probs
        tensors |= {f"{case}.encoded": encoded, f"{case}.greedy": steps}
        tensors |= {f"{case}.weights.{name}": value for name, value in renamed(model).items()}
        table.append({"dim": dim, "classes": classes,
                      "config": {"num_layers": layers, "num_heads": heads, "ffn_dim": 4 * dim, "max_tokens": positions},
                      "texts": texts, "scores": scores, "greedy": tokens, "greedy_score": score})
    (HERE / "text_decoder.json").write_text(json.dumps(table) + "\n")
    save_file({name: value.contiguous() for name, value in tensors.items()}, HERE / "text_decoder.safetensors")


if __name__ == "__main__":
    with torch.no_grad():
        main()
