"""A test set of synthetic speech, for decisions that need many words: voices and sentences that are never trained on.

The voices are SVOX Pico's American and British ones (PyPI ``py-nanotts``); the sentences those that ``text.held_out`` keeps from every training shard. Every
second recording goes through the augmentation (rooms, noise, telephone, level), the others stay clean. The seed is fixed: the same packages give the same set.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import py_nanotts
import soundfile

import text
from augmentation import RATE, augment
from synthesis import trim


def make(packages, out, count, heard=()):
    """Writes recordings and ``text.tsv`` with at least ``count`` words. ``heard`` are transcripts that a model has been trained on: they are left out."""
    rng, total, number = np.random.default_rng(2026), 0, 0
    engine, heard = py_nanotts.NanoTTS(), set(heard)
    source = text.sentences(packages, rng, measured=True)
    out.mkdir(parents=True, exist_ok=True)
    previous = np.zeros(RATE, np.float32)
    with open(out / "text.tsv", "w") as table:
        while total < count:
            spoken, written = next(source)
            if written in heard:
                continue
            heard.add(written)
            sound = engine.speak(spoken, voice=("en-US", "en-GB")[number % 2], speed=float(rng.uniform(0.8, 1.2)), pitch=float(rng.uniform(0.8, 1.2)))
            samples = trim(np.frombuffer(sound, "<i2").astype(np.float32) / 32768)
            if len(samples) < 0.03 * RATE * len(written):
                continue
            clean, other = samples, previous
            if number % 4 >= 2:
                samples = augment(rng, samples, lambda length: np.resize(other, length), 0.8)
            previous = clean
            soundfile.write(out / f"{number:04d}.flac", samples, RATE)
            print(f"{number:04d}", written, sep="\t", file=table)
            total, number = total + len(written.split()), number + 1
    print(f"{number} recordings, {total} words")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", type=Path, required=True, help="folder with the unpacked packages")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--words", type=int, default=10_000)
    parser.add_argument("--heard", type=Path, nargs="*", default=[], help="shard lists (json) of speech made before sentences were held out")
    options = parser.parse_args()
    make(options.packages, options.out, options.words, [item[2] for path in options.heard for item in json.loads(path.read_text())])
