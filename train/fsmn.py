"""The small model: a Deep-FSMN (Zhang et al. 2018, arXiv:1803.05030) that begins with the larger model's ears, and a CTC head.

* The stem: the two convolutions of Whisper's encoder, over the seven log-mel frames around every fourth. They give two frames of 20 ms, which are joined by a weighted sum: a frame for 40 ms.
* Five stages of three layers, one stage for each of the larger model's layers, so that the stream between stages is the larger model's and each can be shown what it should be. The first layer, a memory without an activation,
  ``x_t + project(h_t + sum a_i * h_{t-i} + sum c_j * h_{t+j})`` with ``h = linear(norm(x))``, does what attention does there, as far as its heads always look at the same places; it begins with the directions
  in which they carry most. The second, as in the paper, ``x_t + p_t + sum a_i * p_{t-i} + sum c_j * p_{t+j}`` with ``p = project(gelu(linear(norm(x))))``, begins with the units of the feed-forward part that matter most. The third is
  like the second and begins with nothing: it adds zero until it has learnt something.

It is the very network that ``deep-fsmn`` names in a model directory. Zeros stand before the first frame of a memory. A frame needs ``lookahead`` frames behind it and nothing else of
the future, so whole utterances give exactly what streaming gives.
"""

import torch
from torch import nn
from torch.nn import functional as F

from features import HOP, features
from model import DIM, HEADS, unit_importance
from phones import NAMES, PHONES

STACK, STRIDE, NUM_MELS, TAPS = 7, 4, 80, 3                    # frames side by side; from one stacked frame to the next; frames that a convolution sees
HOP_SAMPLES = STRIDE * HOP                                     # of a stacked frame: 40 ms
STEM = {"frames": STACK, "convolutions": [{"taps": TAPS, "stride": 1, "dim": DIM}, {"taps": TAPS, "stride": 2, "dim": DIM}]}
JOINED = 2                                                     # frames that the stem gives for a stacked one
SEGMENT = 6
STAGES, LEFT_ORDER = 5, 10                                     # of layers; taps on the current frame and back
MEMORY_ON = ["hidden", "projected", "projected"] * STAGES
STAGE = len(MEMORY_ON) // STAGES                               # layers of one
HIDDEN = [192, 416, 240, 152, 288, 240, 120, 224, 224, 120, 152, 208, 96, 104, 192]    # most where it is hardest to follow the larger model: behind the stem
RIGHT_ORDERS = [3, 1, 0] * 3 + [3, 0, 0] * 2
SPOKEN = 2                                                     # the stage behind which the phones are asked for


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


class Stem(nn.Module):
    """(batch, frames, 560) -> (batch, frames, DIM)."""

    def __init__(self):
        super().__init__()
        self.convolutions = nn.ModuleList(Linear(TAPS * inputs, DIM) for inputs in (NUM_MELS, DIM))
        self.joined = nn.Module()
        self.joined.weight = nn.Parameter(torch.full((JOINED, DIM), 1 / JOINED))

    def forward(self, x):
        batch, frames = x.shape[:2]
        x = x.reshape(batch * frames, STACK, NUM_MELS)
        for convolution, shape in zip(self.convolutions, STEM["convolutions"]):
            windows = x.unfold(1, shape["taps"], shape["stride"]).transpose(2, 3)
            x = F.gelu(convolution(windows.reshape(-1, convolution.in_features))).view(len(x), -1, DIM)
        return (x * self.joined.weight).sum(1).unflatten(0, (batch, frames))


class Layer(nn.Module):
    """``memory_on`` says where the memory stands: on the hidden values, which then have no activation, or on the projected ones."""

    def __init__(self, memory_on, hidden, right_order):
        super().__init__()
        self.input_norm, self.linear, self.project = nn.LayerNorm(DIM), Linear(DIM, hidden), Linear(hidden, DIM)
        self.memory_on, self.right_order = memory_on, right_order
        width = hidden if memory_on == "hidden" else DIM
        self.conv1, self.conv2 = nn.Module(), nn.Module()
        self.conv1.weight = nn.Parameter(torch.zeros(width, 1, LEFT_ORDER, 1))
        self.conv2.weight = nn.Parameter(torch.zeros(width, 1, right_order, 1)) if right_order else None

    def remembered(self, p):
        taps = torch.cat([self.conv1.weight, self.conv2.weight], 2) if self.right_order else self.conv1.weight
        window = F.pad(p.transpose(1, 2), (LEFT_ORDER - 1, self.right_order))
        return p + F.conv1d(window, taps.squeeze(3), groups=p.shape[2]).transpose(1, 2)

    def forward(self, x):
        hidden = self.linear(self.input_norm(x))
        return x + (self.project(self.remembered(hidden)) if self.memory_on == "hidden" else self.remembered(self.project(F.gelu(hidden))))


class DeepFsmn(nn.Module):
    """(batch, frames, 560) stacked features to log-probabilities."""

    geometry = (SEGMENT, sum(RIGHT_ORDERS))

    def __init__(self, classes):
        super().__init__()
        self.stem = Stem()
        self.layers = nn.ModuleList(Layer(memory_on, hidden, right) for memory_on, hidden, right in zip(MEMORY_ON, HIDDEN, RIGHT_ORDERS))
        self.norm, self.head, self.spoken = nn.LayerNorm(DIM), Linear(DIM, classes), Linear(DIM, PHONES)
        self.phones = nn.Sequential(nn.LayerNorm(DIM), nn.Linear(DIM, PHONES))

    def lessons(self, x, given=None, known=None):
        """(log-probabilities, what stands behind each stage). Where ``known``, a stage begins with what is ``given`` (batch, frames, stages, DIM) instead of what the one before says."""
        x, behind = self.stem(x), []
        for i, layer in enumerate(self.layers):
            if given is not None and i and i % STAGE == 0:
                frames = known.shape[1]
                x = torch.cat([torch.where(known[:, :, None], given[:, :, i // STAGE - 1], x[:, :frames]), x[:, frames:]], 1)
            x = layer(x)
            behind += [x] if i % STAGE == STAGE - 1 else []
        return self.head(self.norm(x)).float().log_softmax(-1), behind

    def forward(self, spectrum):
        """(1, 4 (frames + lookahead), 80) log-mel -> {"ctc": (1, frames, classes)}."""
        return {"ctc": self.lessons(stacked(spectrum))[0][:, :-self.geometry[1]]}

    def sounds(self, spectrum):
        """(1, 4 (frames + lookahead), 80) log-mel -> (1, frames, phones) log-probabilities."""
        _, behind = self.lessons(stacked(spectrum))
        return self.phones_of(behind[-1])[:, :-self.geometry[1]]

    def phones_of(self, last):
        """Log-probabilities of phones by what stands behind the last stage."""
        return self.spoken(self.norm(last)).float().log_softmax(-1)

    @classmethod
    def spectrum(cls, samples, log_floor):
        """The log-mel of a recording with silence behind it until its last segment is full and all of it is heard."""
        segment, lookahead = cls.geometry
        frames = max(1, -(-len(samples) // (segment * HOP_SAMPLES))) * segment
        return features(samples, STRIDE * (frames + lookahead), log_floor)


def listen(own, attention):
    """An attention as a memory: the directions in which its heads carry most from one frame to another, the same weight for each of the five frames around."""
    _, value = attention.emb_to_key_value.weight.chunk(2)
    value_bias, parts = attention.emb_to_key_value.bias.chunk(2)[1], []
    for to, of in zip(attention.out_proj.weight.split(DIM // HEADS, 1), value.split(DIM // HEADS)):
        left, strength, right = torch.linalg.svd(to @ of, full_matrices=False)
        parts += [(strength[k], left[:, k], right[k]) for k in range(DIM // HEADS)]
    parts.sort(key=lambda part: -part[0])
    for k, (strength, left, right) in enumerate(parts[:own.linear.out_features]):
        own.linear.weight[k], own.project.weight[:, k] = right * strength ** 0.5, left * strength ** 0.5
    own.linear.bias.zero_(), own.project.bias.copy_(attention.out_proj.bias + attention.out_proj.weight @ value_bias)
    own.conv1.weight[:, 0, -3:, 0], own.conv2.weight[:, 0, :2, 0] = 0.2, 0.2
    own.conv1.weight[:, 0, -1, 0] -= 1


@torch.no_grad()
def inherit(pupil, teacher, spectra):
    """Copies the stem, the last norm and the head of a `model.Model`, and of each layer the feed-forward units that matter most while it hears the spectra."""
    importance = unit_importance(teacher, spectra)
    for own, name in zip(pupil.stem.convolutions, ("conv1", "conv2")):
        own.weight.copy_(teacher.stem[name].weight.transpose(1, 2).flatten(1)), own.bias.copy_(teacher.stem[name].bias)
    for i, layer in enumerate(teacher.emformer_layers):
        attention, own, further = pupil.layers[STAGE * i:STAGE * (i + 1)]
        norm, first, second = layer.pos_ff[0], layer.pos_ff[1], layer.pos_ff[4]
        listen(attention, layer.attention)
        attention.input_norm.load_state_dict(layer.layer_norm_input.state_dict()), own.input_norm.load_state_dict(norm.state_dict())
        kept = importance[i].topk(own.linear.out_features).indices.sort().values
        own.linear.weight.copy_(first.weight[kept]), own.linear.bias.copy_(first.bias[kept])
        own.project.weight.copy_(second.weight[:, kept]), own.project.bias.copy_(second.bias)
        further.project.weight.zero_(), further.project.bias.zero_()
    pupil.norm.load_state_dict(teacher.layer_norm.state_dict())
    pupil.head.load_state_dict(teacher.heads["ctc"].state_dict())


@torch.no_grad()
def begin_with(model, found):
    """Takes weights over, of a network with two layers a stage, too; a third that was not found adds nothing yet."""
    found_of_stage = sum(name.endswith("input_norm.weight") for name in found) // STAGES

    def place(name):
        parts = name.split(".")
        if parts[0] == "layers":
            stage, layer = divmod(int(parts[1]), found_of_stage)
            parts[1] = str(stage * STAGE + layer)
        return ".".join(parts)

    missing, unexpected = model.load_state_dict({place(name): value for name, value in found.items()}, strict=False)
    assert not unexpected and all(name.startswith(("layers.", "phones.", "spoken.")) for name in missing), (missing, unexpected)
    for layer in model.layers[STAGE - 1::STAGE] if found_of_stage < STAGE else []:
        layer.project.weight.zero_(), layer.project.bias.zero_()


def config(log_floor, left, n_fft, rate, says_phones):
    """``config.json`` of the exported model."""
    phones = {"phones": {"names": NAMES}} if says_phones else {}
    layers = [{"hidden_dim": hidden, "memory_dim": DIM, "memory_on": memory_on, "left_order": LEFT_ORDER, "right_order": right, "skip_from": i}
              for i, (memory_on, hidden, right) in enumerate(zip(MEMORY_ON, HIDDEN, RIGHT_ORDERS))]
    return {"format": 1, "id": "en-fsmn", "architecture": "deep-fsmn", "language": "en", "sample_rate": rate,
            "features": {"type": "streaming_log_mel", "num_mels": NUM_MELS, "n_fft": n_fft, "hop": HOP, "left_padding": left, "log_floor": log_floor,
                         "lfr": {"stack": STACK, "stride": STRIDE}},
            "encoder": {"input_dim": STACK * NUM_MELS, "stem": STEM, "layers": layers, "input_norm": True, "projection_bias": True, "activation": "gelu", "segment_length": SEGMENT},
            "ctc": {"blank": 0}, **phones, "search": {"language_model_weight": 0.9, "word_bonus": 0.5, "rescoring_weight": 1.0}, "license": "MIT AND Apache-2.0"}
