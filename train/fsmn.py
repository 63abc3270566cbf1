"""The small model: a Deep-FSMN (Zhang et al. 2018, arXiv:1803.05030) over stacked log-mel frames, with a CTC head.

Layer *l* computes ``f = norm(relu(linear(x)))``, ``p = project(f)`` and ``m_t = p_t + sum a_i * p_{t-i} + sum c_j * p_{t+j}``, and adds what the layer before gave:
the very network that ``deep-fsmn`` names in a model directory. Zeros stand before the first frame. A frame needs ``lookahead`` frames behind it and nothing else of
the future, so whole utterances give exactly what streaming gives.
"""

import torch
from torch import nn
from torch.nn import functional as F

from features import HOP, features
from model import DIM as TEACHER_DIM

STACK, STRIDE, NUM_MELS = 7, 4, 80                            # frames side by side; from one stacked frame to the next
HOP_SAMPLES = STRIDE * HOP                                     # of a stacked frame: 40 ms
SEGMENT = 6
HIDDEN, MEMORY, OUTPUT, LEFT_ORDER = 384, 192, 320, 10
RIGHT_ORDERS = [1] * 6 + [2] * 6
MIDDLE, TAUGHT = 6, 10                                         # layers behind which a second CTC head and the teacher's head listen while training


def stacked(spectrum):
    """(batch, 4 N, 80) -> (batch, N, 560): seven frames side by side, centred on every fourth; the first one stands for what is before it."""
    spectrum = torch.cat([spectrum[:, :1].expand(-1, STACK // 2, -1), spectrum], 1)
    return spectrum.unfold(1, STACK, STRIDE).transpose(2, 3).flatten(2)


class Linear(nn.Linear):
    """A linear layer whose weights, once ``rounding`` is set, are whole numbers of 6 bits times a scale for each row, as export.py stores them; gradients pass as if they were not."""

    rounding = False

    def forward(self, x):
        if not Linear.rounding:
            return super().forward(x)
        scale = self.weight.detach().abs().amax(1, keepdim=True).clamp_min(1e-12) / 31
        return F.linear(x, self.weight + ((self.weight / scale).round() * scale - self.weight).detach(), self.bias)


class Layer(nn.Module):
    def __init__(self, inputs, right_order):
        super().__init__()
        self.linear, self.norm, self.project = Linear(inputs, HIDDEN), nn.LayerNorm(HIDDEN), Linear(HIDDEN, MEMORY, bias=False)
        self.conv1, self.conv2 = nn.Module(), nn.Module()
        self.conv1.weight = nn.Parameter(torch.randn(MEMORY, 1, LEFT_ORDER, 1) * 0.05)
        self.conv2.weight = nn.Parameter(torch.randn(MEMORY, 1, right_order, 1) * 0.05)
        self.right_order = right_order
        nn.init.normal_(self.project.weight, std=0.5 * HIDDEN ** -0.5)

    def forward(self, x):
        memory = self.project(self.norm(F.relu(self.linear(x))))
        window = F.pad(memory, (0, 0, LEFT_ORDER - 1, self.right_order)).transpose(1, 2).unsqueeze(2)
        taps = torch.cat([self.conv1.weight, self.conv2.weight], 2).transpose(2, 3)
        remembered = memory + F.conv2d(window, taps, groups=MEMORY).squeeze(2).transpose(1, 2)
        return remembered + x if x.shape[-1] == MEMORY else remembered


class DeepFsmn(nn.Module):
    """(batch, frames, 560) stacked features to log-probabilities. The heads ``middle`` and ``taught`` serve training only."""

    geometry = (SEGMENT, sum(RIGHT_ORDERS))

    def __init__(self, classes):
        super().__init__()
        self.layers = nn.ModuleList(Layer(MEMORY if i else STACK * NUM_MELS, right) for i, right in enumerate(RIGHT_ORDERS))
        self.output_layers = nn.ModuleList([Linear(MEMORY, OUTPUT)])
        self.head, self.middle, self.taught = Linear(OUTPUT, classes), nn.Linear(MEMORY, classes), nn.Linear(MEMORY, TEACHER_DIM)

    def lessons(self, x):
        """(log-probabilities, those of the middle head, what the teacher's output is taken to be)."""
        middle = taught = None
        for i, layer in enumerate(self.layers, 1):
            x = layer(x)
            middle = self.middle(x).log_softmax(-1) if i == MIDDLE else middle
            taught = self.taught(x) if i == TAUGHT else taught
        for layer in self.output_layers:
            x = F.relu(layer(x))
        return self.head(x).log_softmax(-1), middle, taught

    def forward(self, spectrum):
        """(1, 4 (frames + lookahead), 80) log-mel -> {"ctc": (1, frames, classes)}."""
        return {"ctc": self.lessons(stacked(spectrum))[0][:, :-self.geometry[1]]}

    @classmethod
    def spectrum(cls, samples, log_floor):
        """The log-mel of a recording with silence behind it until its last segment is full and all of it is heard."""
        segment, lookahead = cls.geometry
        frames = max(1, -(-len(samples) // (segment * HOP_SAMPLES))) * segment
        return features(samples, STRIDE * (frames + lookahead), log_floor)


def config(log_floor, left, n_fft, rate):
    """``config.json`` of the exported model."""
    layers = [{"hidden_dim": HIDDEN, "memory_dim": MEMORY, "left_order": LEFT_ORDER, "right_order": right} | ({"skip_from": i} if i else {})
              for i, right in enumerate(RIGHT_ORDERS)]
    return {"format": 1, "id": "en-fsmn", "architecture": "deep-fsmn", "language": "en", "sample_rate": rate,
            "features": {"type": "streaming_log_mel", "num_mels": NUM_MELS, "n_fft": n_fft, "hop": HOP, "left_padding": left, "log_floor": log_floor,
                         "lfr": {"stack": STACK, "stride": STRIDE}},
            "encoder": {"input_dim": STACK * NUM_MELS, "layers": layers, "layer_norm": True, "output_layers": [OUTPUT], "segment_length": SEGMENT},
            "ctc": {"blank": 0}, "license": "MIT AND Apache-2.0"}
