"""Makes the feed-forward parts of a checkpoint a little narrower, so that a larger vocabulary fits into the same file.

The units that matter least go: those with the smallest mean square of activation times the norm of what they add, on synthetic speech.
"""

import argparse
from pathlib import Path

import torch
from torch.nn import functional as F

import evaluate
from features import HOP, features
from model import Model


@torch.no_grad()
def narrow(weights, ffn, clips):
    """Weights of a whole model -> the same with ``ffn`` feed-forward units a layer; prints the share of energy that was lost."""
    layers = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("emformer_layers."))
    model = Model(layers)
    model.load_state_dict({name: value for name, value in weights.items() if not name.startswith("heads.")})
    energy = {}

    def watch(index):
        def hook(part, inputs, output):
            energy[index] = energy.get(index, 0) + F.gelu(output).square().flatten(0, -2).sum(0)
        return hook

    for i, layer in enumerate(model.emformer_layers):
        layer.pos_ff[1].register_forward_hook(watch(i))
    for samples, _ in clips:
        segments = -(-len(samples) // (model.geometry[0] * 2 * HOP))
        model(features(torch.from_numpy(samples), Model.feature_frames(segments, model.geometry))[None])
    weights = dict(weights)
    for i in range(layers):
        name = f"emformer_layers.{i}.pos_ff"
        importance = energy[i] * weights[f"{name}.4.weight"].square().sum(0)
        keep = importance.topk(ffn).indices.sort().values
        print(f"layer {i}: lost {1 - importance[keep].sum() / importance.sum():.2e}")
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
