"""Word error rates in streaming mode (the masked forward with right context gives exactly what serving gives), with bootstrap intervals.

A test set is a tab-separated list (file, words) beside its recordings.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import soundfile
import torch
from scipy.signal import resample_poly

from data import Shards, Tokens
from features import LOG_FLOOR, RATE
from fsmn import DeepFsmn, begin_with
from model import Model


def errors(reference, hypothesis):
    """Edit distance between two sequences."""
    row = list(range(len(hypothesis) + 1))
    for i, wanted in enumerate(reference, 1):
        previous, row[0] = row[0], i
        for j, got in enumerate(hypothesis, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (wanted != got))
    return row[-1]


def read_set(path):
    """[(samples, words)] of a list; 16 kHz mono, resampled where a file is not."""
    clips = []
    for line in Path(path).read_text().splitlines():
        name, words = line.split("\t")
        found = next(file for suffix in ("", ".flac", ".wav") if (file := Path(path).parent / (name + suffix)).exists())
        samples, rate = soundfile.read(found, dtype="float32", always_2d=True)
        clips.append((resample_poly(samples[:, 0], RATE // 100, rate // 100) if rate != RATE else samples[:, 0], words))
    return clips


def watched(paths):
    """{name: clips} of the sets to watch while training; of long ones every third clip."""
    sets = {path.stem if path.stem != "text" else path.parent.name: read_set(path) for path in paths}
    return {name: clips[::3] if len(clips) > 100 else clips for name, clips in sets.items()}


def synthetic_set(folder, shard, count):
    """The first utterances of a shard that was kept out of training."""
    shards = Shards(folder)
    shards.refresh()
    wanted = sorted(path.name for path in Path(folder).glob("shard-*.json")).index(f"{shard}.json")
    return [(shards.read(item), item[3]) for item in shards.items if item[0] == wanted][:count]


@torch.no_grad()
def transcribe(model, tokens, samples, log_floor=LOG_FLOOR):
    """{head: text} of one recording."""
    spectrum = model.spectrum(torch.from_numpy(np.ascontiguousarray(samples, np.float32)), log_floor)
    device = next(model.parameters()).device
    out = model(spectrum[None].to(device))
    return {head: tokens[head].decode(log_probs[0].argmax(-1).tolist()) for head, log_probs in out.items()}


def score(model, tokens, clips):
    """{head: [(word errors, words, character errors, characters, hypothesis)] for every clip}."""
    model.eval()
    result = {}
    for samples, reference in clips:
        for head, text in transcribe(model, tokens, samples).items():
            result.setdefault(head, []).append((errors(reference.split(), text.split()), len(reference.split()), errors(reference, text), len(reference), text))
    return result


def summary(rows, draws=2000):
    """WER and CER in percent, word count, and the 95 % interval of the WER from resampled clips."""
    table = np.asarray([row[:4] for row in rows], float)
    pick = np.random.default_rng(0).integers(len(table), size=(draws, len(table)))
    sums = table[pick].sum(1)
    low, high = np.percentile(100 * sums[:, 0] / sums[:, 1], [2.5, 97.5])
    total = table.sum(0)
    return {"wer": round(100 * total[0] / total[1], 1), "interval": [round(low, 1), round(high, 1)], "words": int(total[1]), "cer": round(100 * total[2] / total[3], 1)}


def paired(rows, others, draws=10_000):
    """How many points of WER ``rows`` lie above ``others`` of the same clips: the difference, its 95 % interval, the share of draws in which it is below 0."""
    table = np.asarray([(row[0], other[0], row[1]) for row, other in zip(rows, others)], float)
    pick = np.random.default_rng(0).integers(len(table), size=(draws, len(table)))
    sums = table[pick].sum(1)
    drawn, total = 100 * (sums[:, 0] - sums[:, 1]) / sums[:, 2], table.sum(0)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"difference": round(100 * (total[0] - total[1]) / total[2], 2), "interval": [round(low, 2), round(high, 2)], "better": round(float(np.mean(drawn < 0)), 4)}


def unpacked(value):
    """(rows, columns / 4, 3) bytes -> (rows, columns): the opposite of export.packed."""
    bits = value.int()
    bits = bits[..., 0] | bits[..., 1] << 8 | bits[..., 2] << 16
    return torch.stack([bits >> place & 63 for place in (0, 6, 12, 18)], -1).flatten(1) - 32


LISTENER = ("text_decoder.", "utterance_encoder.", "phone_head.")


def read_weights(folder, listener=False):
    """The tensors of an exported encoder and its head, or of its second listener, as f32, those in whole numbers times the scales of their rows."""
    from safetensors.torch import load_file
    stored, read = load_file(Path(folder) / "model.safetensors"), {}
    for name, value in stored.items():
        if name.endswith(".scale") or name.startswith(LISTENER) != listener:
            continue
        if f"{name}.scale" in stored:
            value = unpacked(value) if value.dtype == torch.uint8 else value
            scale = stored[f"{name}.scale"].float()
            read[name] = value.float() * scale.reshape(-1, *[1] * (value.dim() - 1))
        else:
            read[name] = value.float()
    return read


def says_phones(weights):
    """The weights of an exported small model under their names in training, where its phones are those at the end."""
    return {name.replace("phones.", "spoken."): value for name, value in weights.items()}


def mean_weights(paths):
    """The averaged weights of a checkpoint, or those of an exported directory; of several, their mean."""
    found = [says_phones(read_weights(path)) if path.is_dir() else torch.load(path, map_location="cpu", weights_only=False)["average"] for path in paths]
    return {name: sum(one[name] for one in found) / len(found) for name in found[0]}


def load(folder):
    """An exported model directory -> (Model, {"ctc": Tokens})."""
    folder = Path(folder)
    settings = json.loads((folder / "config.json").read_text())
    encoder = settings["encoder"]
    names = (folder / "tokens.txt").read_text(encoding="utf-8").splitlines()
    tokens = Tokens()
    tokens.names = names
    if settings["architecture"] == "deep-fsmn":
        model = DeepFsmn(len(names))
        begin_with(model, says_phones(read_weights(folder)))
        return model.eval(), {"ctc": tokens}
    geometry = tuple(encoder[f"{name}_length"] for name in ("segment", "left_context", "right_context"))
    model = Model(encoder["num_layers"], {"ctc": len(names)}, geometry, encoder["ffn_dim"])
    state = {(f"heads.ctc{name[4:]}" if name.startswith("head.") else name): value for name, value in read_weights(folder).items()}
    model.load_state_dict(state)
    return model.eval(), {"ctc": tokens}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="an exported model directory")
    parser.add_argument("lists", nargs="+", help="test sets: tab-separated lists beside their recordings")
    parser.add_argument("--against", help="another model directory: its figures and the paired difference too")
    parser.add_argument("--show", action="store_true", help="print every transcript")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    loaded, loaded_tokens = load(options.model)
    against = load(options.against) if options.against else None
    for path in options.lists:
        clips = read_set(path)
        rows = score(loaded, loaded_tokens, clips)["ctc"]
        if options.show:
            for (_, reference), row in zip(clips, rows):
                print(f"  {reference}\n> {row[4]}")
        print(path, json.dumps(summary(rows)), flush=True)
        if against:
            others = score(*against, clips)["ctc"]
            print("  against:", json.dumps(summary(others)), "paired:", json.dumps(paired(rows, others)), flush=True)
