"""The second pass: Whisper's text decoder over what the streaming encoder gives behind Whisper's own layers, with a small lower-case vocabulary.

The vocabulary is a part of GPT-2's byte-pair encoding in its own order, so that a token's place among all tokens is its rank: a word is
spelled by merging again and again the two neighbours whose union comes first in the list.
"""

import json
from collections import Counter
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from model import DIM, HEADS, read_ctranslate2

START, SILENT, END = "<|startoftranscript|>", "<|notimestamps|>", "<|endoftext|>"


class Vocabulary:
    """Names in the order of ids: all letters and tokens, then the three special ones. Words begin with ``▁``."""

    def __init__(self, names):
        self.names, self.ids, self.cache = names, {name: i for i, name in enumerate(names)}, {}
        self.start, self.silent, self.end = (self.ids[name] for name in (START, SILENT, END))

    @classmethod
    def load(cls, path):
        return cls(Path(path).read_text(encoding="utf-8").splitlines())

    def __len__(self):
        return len(self.names)

    def merge(self, parts):
        """Letters -> ids: the two neighbours whose union comes first in the list become one, again and again."""
        while len(parts) > 1:
            pairs = [(self.ids.get(a + b, len(self.names)), i) for i, (a, b) in enumerate(zip(parts, parts[1:]))]
            rank, i = min(pairs)
            if rank == len(self.names):
                break
            parts[i:i + 2] = [parts[i] + parts[i + 1]]
        return [self.ids[part] for part in parts]

    def word(self, word):
        if word not in self.cache:
            self.cache[word] = self.merge(list("▁" + word))
        return self.cache[word]

    def encode(self, text):
        """Lower-case words -> ids."""
        return [i for word in text.split() for i in self.word(word)]

    def decode(self, ids):
        """Ids -> text."""
        return "".join(self.names[i] for i in ids).replace("▁", " ").strip()


def gpt2_names(tokenizer):
    """GPT-2's tokens in the order of their ids, with ``▁`` for the space; only those of lower-case letters and apostrophes."""
    vocabulary = json.loads(Path(tokenizer).read_text())["model"]["vocab"]
    allowed = set("abcdefghijklmnopqrstuvwxyz'")
    names = []
    for name, i in sorted(vocabulary.items(), key=lambda pair: pair[1]):
        name = name.replace("Ġ", "▁")
        rest = name[1:] if name.startswith("▁") else name
        if set(rest) <= allowed and (rest or name == "▁"):
            names.append((name, i))
    return names


def choose(texts, tokenizer, count):
    """The most frequent tokens of the texts, letters always: ``[(name, GPT-2's id)]`` in GPT-2's order."""
    names = gpt2_names(tokenizer)
    whole = Vocabulary([name for name, _ in names] + [START, SILENT, END])
    frequent = Counter(i for text in texts for i in whole.encode(text))
    kept = {i for i, (name, _) in enumerate(names) if len(name) == 1}

    def keep(i):
        """With the tokens that it is merged from, so that it can be reached."""
        if i not in kept:
            kept.add(i)
            shorter = Vocabulary([name for name, _ in names[:i]] + [START, SILENT, END])
            for part in shorter.merge(list(names[i][0])):
                keep(part)

    for i, _ in frequent.most_common():
        if len(kept) >= count:
            break
        keep(i)
    return [names[i] for i in sorted(kept)]


class Attention(nn.Module):
    """Keys and values come in one product; a bias of the keys would have no effect."""

    def __init__(self):
        super().__init__()
        self.query, self.out = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)
        self.key_value = nn.Linear(DIM, 2 * DIM)

    def split(self, x):
        return x.unflatten(-1, (HEADS, -1)).transpose(-2, -3)

    def memory(self, x):
        """(batch, time, DIM) -> keys and values by head."""
        return tuple(self.split(part) for part in self.key_value(x).chunk(2, -1))

    def forward(self, x, memory, mask=None):
        attended = F.scaled_dot_product_attention(self.split(self.query(x)), *memory, attn_mask=mask)
        return self.out(attended.transpose(-2, -3).flatten(-2))


class DecoderLayer(nn.Module):
    """Attention to the text so far, then to the utterance, then the feed-forward part, a norm before each."""

    def __init__(self, ffn):
        super().__init__()
        self.self_norm, self.self_attention = nn.LayerNorm(DIM), Attention()
        self.cross_norm, self.cross_attention = nn.LayerNorm(DIM), Attention()
        self.ffn_norm, self.ffn = nn.LayerNorm(DIM), nn.Sequential(nn.Linear(DIM, ffn), nn.GELU(), nn.Dropout(0.0), nn.Linear(ffn, DIM))


class TextDecoder(nn.Module):
    """``forward`` reads tokens behind ``memory``, an utterance's frames as keys and values of every layer, and gives logits of the next ones."""

    def __init__(self, classes, layers=4, ffn=1536, positions=448):
        super().__init__()
        self.embedding = nn.Embedding(classes, DIM)
        self.positions = nn.Parameter(torch.zeros(positions, DIM))
        self.input_norm = nn.LayerNorm(DIM)
        self.layers = nn.ModuleList(DecoderLayer(ffn) for _ in range(layers))
        self.norm = nn.LayerNorm(DIM)

    def memory(self, encoded):
        """Encoder frames (batch, frames, DIM) -> keys and values of every layer."""
        encoded = self.input_norm(encoded)
        return [layer.cross_attention.memory(encoded) for layer in self.layers]

    def forward(self, ids, memory, visible=None, past=None):
        """ids (batch, tokens) behind the ``past`` (list of keys and values, extended); visible (batch, frames) bool -> (batch, tokens, classes) logits."""
        begin = past[0][0].shape[-2] if past and past[0] else 0
        count = ids.shape[1]
        x = self.embedding(ids) + self.positions[begin:begin + count]
        causal = torch.ones(count, begin + count, dtype=torch.bool, device=ids.device).tril(begin)
        seen = None if visible is None else visible[:, None, None]
        for i, layer in enumerate(self.layers):
            y = layer.self_norm(x)
            own = layer.self_attention.memory(y)
            if past is not None:
                if past[i]:
                    own = tuple(torch.cat([old, new], -2) for old, new in zip(past[i], own))
                past[i] = own
            x = x + layer.self_attention(y, own, causal)
            x = x + layer.cross_attention(layer.cross_norm(x), memory[i], seen)
            x = x + layer.ffn(layer.ffn_norm(x))
        return F.linear(self.norm(x), self.embedding.weight)

    @torch.no_grad()
    def greedy(self, encoded, vocabulary, most):
        """(frames, DIM) -> ids."""
        memory, past = self.memory(encoded[None]), [None] * len(self.layers)
        found, ids = [], torch.tensor([[vocabulary.start, vocabulary.silent]])
        while len(found) < most:
            logits = self(ids, memory, past=past)[0, -1]
            best = int(logits.argmax())
            if best >= vocabulary.start:
                break
            found.append(best)
            ids = torch.tensor([[best]])
        return found


def load_whisper_decoder(path, chosen, tokenizer):
    """A decoder with Whisper's weights for the chosen tokens."""
    v = read_ctranslate2(path)
    names = json.loads(Path(tokenizer).read_text())
    special = {entry["content"]: entry["id"] for entry in names["added_tokens"]}
    rows = [i for _, i in chosen] + [special[name] for name in (START, SILENT, END)]
    decoder = TextDecoder(len(rows))
    state = {"embedding.weight": v["decoder/embeddings/weight"][rows], "positions": v["decoder/position_encodings/encodings"],
             "norm.weight": v["decoder/layer_norm/gamma"], "norm.bias": v["decoder/layer_norm/beta"],
             "input_norm.weight": v["encoder/layer_norm/gamma"], "input_norm.bias": v["encoder/layer_norm/beta"]}
    for i in range(4):
        to, own = f"layers.{i}", f"decoder/layer_{i}"
        for kind in ("weight", "bias"):
            state[f"{to}.self_attention.query.{kind}"] = v[f"{own}/self_attention/linear_0/{kind}"][:DIM]
            state[f"{to}.self_attention.key_value.{kind}"] = v[f"{own}/self_attention/linear_0/{kind}"][DIM:]
            state[f"{to}.self_attention.out.{kind}"] = v[f"{own}/self_attention/linear_1/{kind}"]
            state[f"{to}.cross_attention.query.{kind}"] = v[f"{own}/attention/linear_0/{kind}"]
            state[f"{to}.cross_attention.key_value.{kind}"] = v[f"{own}/attention/linear_1/{kind}"]
            state[f"{to}.cross_attention.out.{kind}"] = v[f"{own}/attention/linear_2/{kind}"]
            state[f"{to}.ffn.0.{kind}"] = v[f"{own}/ffn/linear_0/{kind}"]
            state[f"{to}.ffn.3.{kind}"] = v[f"{own}/ffn/linear_1/{kind}"]
            norm = {"weight": "gamma", "bias": "beta"}[kind]
            for name, part in (("self_norm", "self_attention"), ("cross_norm", "attention"), ("ffn_norm", "ffn")):
                state[f"{to}.{name}.{kind}"] = v[f"{own}/{part}/layer_norm/{norm}"]
    decoder.load_state_dict(state)
    return decoder
