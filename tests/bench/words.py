"""How many words int8 changes: the same clips through ``waxwing transcribe`` in both precisions.

``python tests/bench/words.py CLIPS_DIR [--model DIR]`` after ``cargo build --release``. Prints the words that differ (insertions, deletions and
replacements between the two transcripts) of the words in f32, with a bootstrap interval over clips.
"""

import argparse
import json
import random
import subprocess
from pathlib import Path

SUFFIXES = {".wav", ".flac", ".ogg", ".mp3", ".opus"}


def transcripts(binary, clips, precision, model):
    """Words of every clip."""
    command = [binary, "transcribe", "--precision", precision, "--format", "json", *(["--model", model] if model else []), *clips]
    lines = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout.splitlines()
    texts = [json.loads(line)["text"].split() for line in lines if line.strip()]
    assert len(texts) == len(clips), f"expected a transcript for each of {len(clips)} clips, found {len(texts)}"
    return texts


def distance(left, right):
    """Least insertions, deletions and replacements that make one list the other."""
    row = list(range(len(right) + 1))
    for index, word in enumerate(left, 1):
        before, row[0] = row[0], index
        for other, candidate in enumerate(right, 1):
            before, row[other] = row[other], min(row[other] + 1, row[other - 1] + 1, before + (word != candidate))
    return row[-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--waxwing", type=Path, default=Path(__file__).resolve().parents[2] / "target/release/waxwing")
    parser.add_argument("--model")
    arguments = parser.parse_args()
    clips = sorted(path for path in arguments.clips.rglob("*") if path.suffix in SUFFIXES)
    float_words, whole_words = (transcripts(arguments.waxwing, clips, name, arguments.model) for name in ("f32", "int8"))
    counts = [(distance(left, right), len(left)) for left, right in zip(float_words, whole_words)]
    share = lambda sample: 100 * sum(off for off, _ in sample) / max(1, sum(words for _, words in sample))
    chance = random.Random(1)
    shares = sorted(share(chance.choices(counts, k=len(counts))) for _ in range(2000))
    off, words = (sum(column) for column in zip(*counts))
    print(f"{len(clips)} clips: {off} of {words} words differ, {share(counts):.2f} % (95 % interval {shares[50]:.2f}–{shares[1949]:.2f})")


if __name__ == "__main__":
    main()
