"""What the second listener's encoder hears of phones: a weighted mean of what stands behind its layers, a few layers with a memory over the neighbouring frames, and a CTC head."""

import torch
from torch import nn
from torch.nn import functional as F

from model import DIM
from phones import PHONES

LAYERS, HIDDEN, ORDER = 2, 512, 4                              # ORDER: frames that a memory sees on each side
WEIGHT = 0.4                                                   # of the phones beside the text decoder, chosen on the development sets (NOTES.md, section 21)


class Layer(nn.Module):
    def __init__(self, dim, hidden, order):
        super().__init__()
        self.norm, self.linear, self.project = nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.memory = nn.Conv1d(hidden, hidden, 2 * order + 1, padding=order, groups=hidden, bias=False)
        nn.init.zeros_(self.memory.weight)

    def forward(self, x):
        hidden = self.linear(self.norm(x))
        return x + self.project(F.gelu(hidden + self.memory(hidden.transpose(1, 2)).transpose(1, 2)))


class PhoneHead(nn.Module):
    """[(batch, frames, dim)] behind each of an encoder's layers -> (batch, frames, classes) log-probabilities."""

    def __init__(self, encoder_layers=4, dim=DIM, layers=LAYERS, hidden=HIDDEN, order=ORDER, classes=PHONES):
        super().__init__()
        self.mix = nn.Parameter(torch.zeros(encoder_layers))   # before its softmax
        self.layers = nn.ModuleList(Layer(dim, hidden, order) for _ in range(layers))
        self.norm, self.out = nn.LayerNorm(dim), nn.Linear(dim, classes)

    def forward(self, behind):
        x = sum(share * F.layer_norm(one, one.shape[-1:]) for share, one in zip(self.mix.softmax(0), behind))
        for layer in self.layers:
            x = layer(x)
        return self.out(self.norm(x)).float().log_softmax(-1)


def exported(weights):
    """Averaged weights of a checkpoint -> the tensors of a model directory, and its ``phone_head``."""
    state = {f"phone_head.{name}": value.softmax(0) if name == "mix" else value for name, value in weights.items()}
    return state, {"num_layers": LAYERS, "hidden_dim": HIDDEN, "order": ORDER, "weight": WEIGHT}
