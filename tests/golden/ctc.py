"""Golden data for CTC beam search: what other decoders give on the same log-probs.

``python ctc.py`` writes ``ctc.safetensors`` and ``ctc.json`` next to itself. Random log-probs of several shapes and sharpnesses, and the shipped
model's own on a real voice (``ctc_voice.safetensors``, made by ``cargo run --release --example log_probs``), go through

* ``textbook``: prefix beam search as csr-pytorch does it (Hannun et al., arXiv 1408.2873): all classes, f64, beam 5;
* ``ctcdecode``: the same recursion in f32 over the 40 most probable classes of a frame, beam 10, as parlance/ctcdecode does it, with the frame in
  which each token was most probable. The package does not build any more, so both are written anew here from their recursions;
* ``flashlight``: torchaudio's ``ctc_decoder`` (flashlight-text) without a lexicon and language model, ``log_add``. Its beam holds a
  prefix twice, with and without a blank behind it, so it is the same search only where nothing is pruned: short inputs, a beam of everything;
  on the voice, a beam so wide that the pruned mass does not show;
* ``fast_ctc_decode``: a beam of 5 and of 20 over classes above a threshold.
"""

import itertools
import json
import math
from pathlib import Path

import fast_ctc_decode
import numpy as np
from safetensors.numpy import load_file, save_file
from torchaudio.models.decoder import ctc_decoder
import torch

HERE = Path(__file__).parent
BLANK = 0


def log_add(kind, *values):
    top = max(values)
    if top == -math.inf:
        return kind(-math.inf)
    return kind(top + kind(math.log(sum(kind(math.exp(kind(value - top))) for value in values))))


def prefix_search(log_probs, width, top, kind):
    """The sum over paths by prefix, split by whether a blank came last. Ranked prefixes with scores and frames."""
    nothing = kind(-math.inf)
    beam = {(): (kind(0), nothing)}
    seen_at = {}
    for frame, row in enumerate(log_probs):
        row = [kind(value) for value in row]
        classes = sorted(range(len(row)), key=lambda index: -row[index])[:top]
        gathered = {}

        def gather(prefix, blank, sound, log_prob):
            old = gathered.get(prefix, (nothing, nothing))
            gathered[prefix] = (log_add(kind, old[0], blank), log_add(kind, old[1], sound))
            # Of a token: the frame in which it was most probable while it was heard.
            if sound > -math.inf and log_prob > seen_at.get(prefix, (-math.inf, 0))[0]:
                seen_at[prefix] = (log_prob, frame)

        for index in classes:
            log_prob = row[index]
            for prefix, (blank, sound) in beam.items():
                total = log_add(kind, blank, sound)
                if index == BLANK:
                    gather(prefix, kind(log_prob + total), nothing, log_prob)
                elif prefix and prefix[-1] == index:
                    gather(prefix, nothing, kind(log_prob + sound), log_prob)
                    gather(prefix + (index,), nothing, kind(log_prob + blank), log_prob)
                else:
                    gather(prefix + (index,), nothing, kind(log_prob + total), log_prob)
        ranked = sorted(gathered.items(), key=lambda item: -log_add(kind, *item[1]))
        beam = dict(ranked[:width])
    return [(list(prefix), float(log_add(kind, *both)), [seen_at[prefix[:n + 1]][1] for n in range(len(prefix))])
            for prefix, both in beam.items() if log_add(kind, *both) > -math.inf]


def flashlight(log_probs, width):
    names = ["-"] + [f"t{index}" for index in range(1, log_probs.shape[1])]
    decoder = ctc_decoder(lexicon=None, tokens=names, lm=None, nbest=3, beam_size=width, beam_size_token=log_probs.shape[1],
                          beam_threshold=60, log_add=True, blank_token="-", sil_token="-", unk_word="t1")
    results = decoder(torch.from_numpy(log_probs)[None])[0]
    return [([int(token) for token in result.tokens], float(result.score)) for result in results]


def fast(log_probs, width, threshold):
    letters = [chr(0x4E00 + index) for index in range(log_probs.shape[1])]
    text, _ = fast_ctc_decode.beam_search(np.exp(log_probs), letters, beam_size=width, beam_cut_threshold=threshold)
    return [ord(letter) - 0x4E00 for letter in text]


def random_log_probs(generator, frames, classes, sharpness, blank_bonus):
    logits = generator.standard_normal((frames, classes)) * sharpness
    logits[:, BLANK] += blank_bonus
    return (logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32)


def main():
    generator = np.random.default_rng(5)
    cases = {"voice": load_file(HERE / "ctc_voice.safetensors")["log_probs"]}
    shapes = [(6, 3), (6, 5), (5, 7), (12, 46), (40, 46), (100, 29)]
    for (frames, classes), (sharpness, bonus) in itertools.product(shapes, [(1.0, 0.0), (4.0, 3.0)]):
        for draw in range(3):
            cases[f"{frames}x{classes}.{sharpness:g}.{draw}"] = random_log_probs(generator, frames, classes, sharpness, bonus)
    tensors, table = {}, {}
    for name, log_probs in cases.items():
        frames, classes = log_probs.shape
        short = classes ** min(frames, 9) < 100_000
        threshold = 0.5 / classes if name == "voice" else 0.1 / classes
        table[name] = {
            "textbook": prefix_search(log_probs, 5, classes, float),
            "ctcdecode": prefix_search(log_probs, 10, 40, np.float32),
            "flashlight": flashlight(log_probs, 100_000 if short else 2_000) if short or name == "voice" else None,
            "fast_ctc_decode": {"threshold": threshold, "5": fast(log_probs, 5, threshold), "20": fast(log_probs, 20, threshold)},
        }
        if name != "voice":
            tensors[name] = log_probs
    save_file(tensors, HERE / "ctc.safetensors")
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(results)}" for name, results in table.items())
    (HERE / "ctc.json").write_text(f"{{\n{lines}\n}}\n")
    print(f"{len(table)} cases")


if __name__ == "__main__":
    main()
