"""The exported model as a plain streaming program: what a server has to compute, segment by segment, and nothing else.

``features`` -> ``Reference.stem`` (each feature frame once) -> ``Reference.forward_segment(window, state)`` with ``window`` the L + R stem outputs
of a segment and of its right context. Golden data for other implementations is made from this; ``python reference.py MODEL CLIP`` decodes a
clip and compares with the batched forward that training uses.
"""

import json
import sys
from pathlib import Path

import torch
from torch.nn import functional as F

from data import spoken
from evaluate import read_weights
from features import features
from model import sinusoids


class Reference:
    """A model directory. All tensors f32, one session: (time, dim)."""

    def __init__(self, folder):
        folder = Path(folder)
        self.config = json.loads((folder / "config.json").read_text())
        self.encoder = self.config["encoder"]
        self.weights = read_weights(folder)
        self.tokens = (folder / "tokens.txt").read_text(encoding="utf-8").splitlines()
        self.positions = sinusoids()

    def linear(self, name, x):
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def norm(self, name, x):
        return F.layer_norm(x, (self.encoder["dim"],), self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def conv(self, name, x, stride):
        return F.gelu(F.conv1d(x.T[None], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], stride)[0].T)

    def features(self, audio, num_frames):
        """(samples,) f32 -> (num_frames, 80)."""
        return features(audio, num_frames, self.config["features"]["log_floor"])

    def stem(self, frames, past=None):
        """(2 n + 2, 80) or, continuing, (2 n, 80) new feature frames -> ((n, dim), past).

        At the beginning of the stream one frame of zeros stands before the features and one before conv1's outputs; output j needs
        feature frames up to 2 j + 2, so the first call takes one frame more (and gives n outputs for 2 n + 1 frames).
        """
        if past is None:
            conv1_in, conv2_in = F.pad(frames, (0, 0, 1, 0)), torch.zeros(1, self.encoder["dim"])
        else:
            conv1_in, conv2_in = torch.cat([past[0], frames]), past[1]
        hidden = torch.cat([conv2_in, self.conv("stem.conv1", conv1_in, 1)])
        return self.conv("stem.conv2", hidden, 2), (conv1_in[-2:], hidden[-1:])

    def initial_state(self):
        """Frames seen, and for every layer the left context's keys and values, both (0, dim) at first."""
        empty = torch.zeros(0, self.encoder["dim"])
        return {"position": 0, "layers": [(empty, empty) for _ in range(self.encoder["num_layers"])]}

    def attention(self, name, query, key, value):
        heads = self.encoder["num_heads"]
        query, key, value = (x.unflatten(-1, (heads, -1)).transpose(0, 1) for x in (query, key, value))
        scores = query * (query.shape[-1] ** -0.5) @ key.transpose(1, 2)
        return self.linear(f"{name}.out_proj", (scores.softmax(-1) @ value).transpose(0, 1).flatten(1))

    def forward_segment(self, window, state):
        """window: (L + R, dim) stem outputs without positions -> ((L, classes) log-probabilities, new state)."""
        length, right, left = (self.encoder[f"{name}_length"] for name in ("segment", "right_context", "left_context"))
        index = (torch.arange(length + right) + state["position"]) % self.encoder["position_period"]
        x = window + self.positions[index]
        x = torch.cat([x[length:], x[:length]])                                 # right context first
        layers = []
        for i, (left_key, left_value) in enumerate(state["layers"]):
            name = f"emformer_layers.{i}"
            y = self.norm(f"{name}.layer_norm_input", x)
            key, value = self.linear(f"{name}.attention.emb_to_key_value", y).chunk(2, -1)
            query = self.linear(f"{name}.attention.emb_to_query", y)
            keys = torch.cat([key[:right], left_key, key[right:]])
            values = torch.cat([value[:right], left_value, value[right:]])
            x = x + self.attention(f"{name}.attention", query, keys, values)
            y = self.norm(f"{name}.pos_ff.0", x)
            x = x + self.linear(f"{name}.pos_ff.4", F.gelu(self.linear(f"{name}.pos_ff.1", y)))
            layers.append((torch.cat([left_key, key[right:]])[-left:], torch.cat([left_value, value[right:]])[-left:]))
        log_probs = self.linear("head", self.norm("layer_norm", x[right:])).log_softmax(-1)
        return log_probs, {"position": state["position"] + length, "layers": layers}

    def stream(self, audio):
        """(samples,) f32 -> (frames, classes): the whole clip, with virtual silence behind it to fill the last segment and its right context."""
        length, right = self.encoder["segment_length"], self.encoder["right_context_length"]
        segments = max(1, -(-audio.shape[0] // (length * 320)))
        frames = self.features(audio, 2 * (segments * length + right) + 1)
        held, past = self.stem(frames[: 2 * right + 1])
        state, out = self.initial_state(), []
        for segment in range(segments):
            start = 2 * (segment * length + right) + 1
            fresh, past = self.stem(frames[start:start + 2 * length], past)
            window = torch.cat([held, fresh])
            log_probs, state = self.forward_segment(window, state)
            out.append(log_probs)
            held = window[length:]
        return torch.cat(out)

    def text(self, log_probs):
        return "".join(self.tokens[c] for c in spoken(log_probs.argmax(-1).tolist())).replace("▁", " ").strip()


if __name__ == "__main__":
    import soundfile
    from evaluate import load
    reference = Reference(sys.argv[1])
    samples = torch.from_numpy(soundfile.read(sys.argv[2], dtype="float32")[0])
    with torch.no_grad():
        streamed = reference.stream(samples)
        model, _ = load(sys.argv[1])
        whole = model(features(samples, model.feature_frames(streamed.shape[0] // model.geometry[0], model.geometry))[None])["ctc"][0]
    print(reference.text(streamed))
    print("largest difference from the batched forward:", (streamed - whole).abs().max().item())
