"""Makes the feed-forward parts of a checkpoint a little narrower, so that a larger vocabulary fits into the same file.

The units that matter least go: those with the smallest mean square of activation times the norm of what they add, on synthetic speech.
"""

import argparse
from pathlib import Path

import torch

import evaluate
from features import LOG_FLOOR
from model import Model, unit_importance


@torch.no_grad()
def narrow(weights, ffn, clips):
    """Weights of a whole model -> the same with ``ffn`` feed-forward units a layer; prints the share of energy that was lost."""
    layers = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("emformer_layers."))
    model = Model(layers)
    model.load_state_dict({name: value for name, value in weights.items() if not name.startswith("heads.")})
    importance = unit_importance(model, (model.spectrum(torch.from_numpy(samples), LOG_FLOOR) for samples, _ in clips))
    weights = dict(weights)
    for i in range(layers):
        name = f"emformer_layers.{i}.pos_ff"
        keep = importance[i].topk(ffn).indices.sort().values
        print(f"layer {i}: lost {1 - importance[i][keep].sum() / importance[i].sum():.2e}")
        weights[f"{name}.1.weight"], weights[f"{name}.1.bias"] = weights[f"{name}.1.weight"][keep], weights[f"{name}.1.bias"][keep]
        weights[f"{name}.4.weight"] = weights[f"{name}.4.weight"][:, keep]
    return weights


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--speech", type=Path, required=True)
    parser.add_argument("--shard", default="shard-0-0000")
    parser.add_argument("--ffn", type=int, default=1504)
    options = parser.parse_args()
    averaged = torch.load(options.checkpoint, map_location="cpu", weights_only=False)["average"]
    torch.save({"average": narrow(averaged, options.ffn, evaluate.synthetic_set(options.speech, options.shard, 20))}, options.out)
