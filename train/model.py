"""The acoustic model: Whisper's stem and layers run as an Emformer, more layers of the same shape, one final norm, CTC heads.

``Model.forward`` takes the features of whole utterances and gives for every frame exactly what streaming gives: each segment of ``L`` frames
is computed together with its own copy of the next ``R`` frames (the right context) and sees the keys of the ``LC`` frames before it.
With ``context="full"`` every frame sees the whole utterance, as in Whisper.
"""

import math
import struct
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from features import HOP, features

DIM, HEADS, FFN, PERIOD = 384, 6, 1536, 1500
SEGMENT, LEFT_CONTEXT, RIGHT_CONTEXT = 32, 128, 16


def sinusoids():
    """(1500, 384) f32: Whisper's positions, sines then cosines."""
    scale = np.exp(-np.log(10_000) / (DIM // 2 - 1) * np.arange(DIM // 2))
    angle = np.arange(PERIOD)[:, None] * scale[None]
    return torch.from_numpy(np.concatenate([np.sin(angle), np.cos(angle)], 1).astype(np.float32))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb_to_key_value = nn.Linear(DIM, 2 * DIM)
        self.emb_to_query = nn.Linear(DIM, DIM)
        self.out_proj = nn.Linear(DIM, DIM)
        nn.init.zeros_(self.emb_to_key_value.bias)

    def attend(self, query, key, value, mask=None):
        """(batch, time, DIM) each; the mask is True where a key may be seen."""
        query, key, value = (x.unflatten(-1, (HEADS, -1)).transpose(-2, -3) for x in (query, key, value))
        return self.out_proj(F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(-2, -3).flatten(-2))


class Layer(nn.Module):
    """One Emformer layer with norms before attention and before the feed-forward part, none after."""

    def __init__(self, ffn=FFN):
        super().__init__()
        self.attention = Attention()
        self.pos_ff = nn.Sequential(nn.LayerNorm(DIM), nn.Linear(DIM, ffn), nn.GELU(), nn.Dropout(0.0), nn.Linear(ffn, DIM))
        self.layer_norm_input = nn.LayerNorm(DIM)

    def full(self, x):
        y = self.layer_norm_input(x)
        key, value = self.attention.emb_to_key_value(y).chunk(2, -1)
        x = x + self.attention.attend(self.attention.emb_to_query(y), key, value)
        return x + self.pos_ff(x)

    def segments(self, x, visible, geometry):
        """x: (batch, segments, R + L, DIM), right context first; ``visible``: (batch * segments, 1, 1, LC + R + L)."""
        segment, left, right = geometry
        batch, count = x.shape[:2]
        y = self.layer_norm_input(x)
        key_value = self.attention.emb_to_key_value(y)
        past = F.pad(key_value[:, :, right:].flatten(1, 2), (0, 0, left, 0))
        past = past.unfold(1, left, segment)[:, :count].transpose(-1, -2)      # the LC frames before each segment
        key, value = torch.cat([past, key_value], 2).flatten(0, 1).chunk(2, -1)
        attended = self.attention.attend(self.attention.emb_to_query(y).flatten(0, 1), key, value, visible)
        x = x + attended.unflatten(0, (batch, count))
        return x + self.pos_ff(x)


class Model(nn.Module):
    """Features to log-probabilities. ``heads`` maps a name to a number of classes; training may use several, one is exported."""

    def __init__(self, num_layers=5, heads=None, geometry=(SEGMENT, LEFT_CONTEXT, RIGHT_CONTEXT), ffn=FFN):
        super().__init__()
        self.geometry = geometry
        self.stem = nn.ModuleDict({"conv1": nn.Conv1d(80, DIM, 3), "conv2": nn.Conv1d(DIM, DIM, 3, stride=2)})
        self.emformer_layers = nn.ModuleList(Layer(ffn) for _ in range(num_layers))
        self.layer_norm = nn.LayerNorm(DIM)
        self.heads = nn.ModuleDict({name: nn.Linear(DIM, classes) for name, classes in (heads or {}).items()})
        self.register_buffer("positions", sinusoids(), persistent=False)

    def embed(self, features, offset=0):
        """(batch, 2 N + 1, 80) -> (batch, N, DIM): the stem, with its zeros at the beginning only, and the positions."""
        x = F.gelu(self.stem["conv1"](F.pad(features.transpose(1, 2), (1, 0))))
        x = F.gelu(self.stem["conv2"](F.pad(x, (1, 0)))).transpose(1, 2)
        index = (torch.arange(x.shape[1], device=x.device) + offset) % PERIOD
        return x + self.positions[index]

    @staticmethod
    def feature_frames(num_segments, geometry):
        """Feature frames that ``num_segments`` segments and the last right context need."""
        return 2 * (num_segments * geometry[0] + geometry[2]) + 1

    def spectrum(self, samples, log_floor):
        """The log-mel of a recording with silence behind it until its last segment is full and all of it is heard."""
        return features(samples, self.feature_frames(max(1, -(-len(samples) // (self.geometry[0] * 2 * HOP))), self.geometry), log_floor)

    def blocks(self, x):
        """(batch, n L + R, DIM) -> (batch, n, R + L, DIM), and which keys each segment sees."""
        segment, left, right = self.geometry
        count = (x.shape[1] - right) // segment
        windows = x.unfold(1, segment + right, segment)[:, :count].transpose(-1, -2)
        x = torch.cat([windows[:, :, segment:], windows[:, :, :segment]], 2)
        at = torch.arange(count, device=x.device)[:, None] * segment - left + torch.arange(left, device=x.device)
        visible = F.pad(at >= 0, (0, right + segment), value=True)
        return x, visible.repeat(x.shape[0], 1)[:, None, None]

    def enter(self, features, offset=0, context="stream"):
        """The input of the first layer: (state, which keys are seen). ``state`` is in blocks when streaming."""
        x = self.embed(features, offset)
        return self.blocks(x) if context == "stream" else (x, None)

    def run(self, x, visible, layers):
        """Runs the layers with these indices."""
        for i in layers:
            layer = self.emformer_layers[i]
            x = layer.full(x) if visible is None else layer.segments(x, visible, self.geometry)
        return x

    def behind(self, x, visible):
        """What stands behind each layer, one after the other."""
        for layer in range(len(self.emformer_layers)):
            x = self.run(x, visible, [layer])
            yield x

    def utterance(self, x):
        """Blocks -> (batch, n L, DIM) without the right contexts; what is not in blocks stays."""
        return x[:, :, self.geometry[2]:].flatten(1, 2) if x.dim() == 4 else x

    def encode(self, features, offset=0, context="stream"):
        """Stem and all layers, before the final norm."""
        x, visible = self.enter(features, offset, context)
        return self.utterance(self.run(x, visible, range(len(self.emformer_layers))))

    def forward(self, features, offset=0, context="stream"):
        """Returns {head: (batch, frames, classes) log-probabilities}."""
        x = self.layer_norm(self.encode(features, offset, context))
        return {name: head(x).log_softmax(-1) for name, head in self.heads.items()}


@torch.no_grad()
def unit_importance(model, spectra):
    """[(units,)] of each layer's feed-forward part: a unit's sum of squared activations times the squared norm of what it adds, while the model hears the spectra (frames, 80)."""
    energy = {}

    def watch(index):
        def hook(part, inputs, output):
            energy[index] = energy.get(index, 0) + F.gelu(output).square().flatten(0, -2).sum(0)
        return hook

    hooks = [layer.pos_ff[1].register_forward_hook(watch(i)) for i, layer in enumerate(model.emformer_layers)]
    for spectrum in spectra:
        model(spectrum[None])
    for hook in hooks:
        hook.remove()
    return [energy[i] * layer.pos_ff[4].weight.square().sum(0) for i, layer in enumerate(model.emformer_layers)]


def read_ctranslate2(path):
    """All variables of a CTranslate2 model file, as f32 tensors by name."""
    data, at, variables = Path(path).read_bytes(), 0, {}

    def take(form):
        nonlocal at
        value = struct.unpack_from("<" + form, data, at)[0]
        at += struct.calcsize("<" + form)
        return value

    def string():
        nonlocal at
        length = take("H")
        at += length
        return data[at - length:at - 1].decode()

    take("I"), string(), take("I")
    kinds = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}
    for _ in range(take("I")):
        name = string()
        shape = [take("I") for _ in range(take("B"))]
        kind, size = take("B"), take("I")
        if kind in kinds:
            variables[name] = torch.from_numpy(np.frombuffer(data, kinds[kind], offset=at, count=math.prod(shape)).reshape(shape).astype(np.float32))
        at += size
    return variables


def load_whisper(model, path):
    """Copies Whisper's encoder into the stem and the first four layers; further layers start as the identity behind its final norm."""
    v = {name[8:]: value for name, value in read_ctranslate2(path).items() if name.startswith("encoder/")}
    state = {f"stem.{conv}.{kind}": v[f"{conv}/{kind}"] for conv in ("conv1", "conv2") for kind in ("weight", "bias")}
    for i in range(4):
        to, attention, ffn = f"emformer_layers.{i}", f"layer_{i}/self_attention", f"layer_{i}/ffn"
        for kind in ("weight", "bias"):
            state[f"{to}.attention.emb_to_query.{kind}"] = v[f"{attention}/linear_0/{kind}"][:DIM]
            state[f"{to}.attention.emb_to_key_value.{kind}"] = v[f"{attention}/linear_0/{kind}"][DIM:]
            state[f"{to}.attention.out_proj.{kind}"] = v[f"{attention}/linear_1/{kind}"]
            state[f"{to}.pos_ff.1.{kind}"], state[f"{to}.pos_ff.4.{kind}"] = v[f"{ffn}/linear_0/{kind}"], v[f"{ffn}/linear_1/{kind}"]
            norm = {"weight": "gamma", "bias": "beta"}[kind]
            state[f"{to}.layer_norm_input.{kind}"], state[f"{to}.pos_ff.0.{kind}"] = v[f"{attention}/layer_norm/{norm}"], v[f"{ffn}/layer_norm/{norm}"]
    final = {"weight": v["layer_norm/gamma"], "bias": v["layer_norm/beta"]}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    with torch.no_grad():
        for norm in [model.layer_norm] + [norm for layer in model.emformer_layers[4:] for norm in (layer.layer_norm_input, layer.pos_ff[0])]:
            norm.weight.copy_(final["weight"]), norm.bias.copy_(final["bias"])
        for layer in model.emformer_layers[4:]:
            for last in (layer.attention.out_proj, layer.pos_ff[4]):
                nn.init.normal_(last.weight, std=0.002), nn.init.zeros_(last.bias)
    return model
