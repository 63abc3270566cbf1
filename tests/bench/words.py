"""How many words a precision changes: the same clips through ``waxwing transcribe`` in f32 and in it.

``python tests/bench/words.py CLIPS_DIR... [--precisions int8,bf16,w8a8] [--model DIR]`` after ``cargo build --release``. Prints the words that differ (insertions, deletions and
replacements between the two transcripts) of the words in f32, with a bootstrap interval over clips, for each folder and for all together.
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


def report(name, precision, counts):
    share = lambda sample: 100 * sum(off for off, _ in sample) / max(1, sum(words for _, words in sample))
    chance = random.Random(1)
    shares = sorted(share(chance.choices(counts, k=len(counts))) for _ in range(2000))
    off, words = (sum(column) for column in zip(*counts))
    print(f"{name}, {precision}: {len(counts)} clips: {off} of {words} words differ, {share(counts):.2f} % (95 % interval {shares[50]:.2f}–{shares[1949]:.2f})", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, nargs="+")
    parser.add_argument("--precisions", default="int8")
    parser.add_argument("--waxwing", type=Path, default=Path(__file__).resolve().parents[2] / "target/release/waxwing")
    parser.add_argument("--model")
    arguments = parser.parse_args()
    together = {precision: [] for precision in arguments.precisions.split(",")}
    for folder in arguments.clips:
        clips = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES)
        as_f32 = transcripts(arguments.waxwing, clips, "f32", arguments.model)
        for precision, all_counts in together.items():
            found = transcripts(arguments.waxwing, clips, precision, arguments.model)
            counts = [(distance(left, right), len(left)) for left, right in zip(as_f32, found)]
            all_counts += counts
            report(folder.name, precision, counts)
    for precision, counts in together.items():
        if len(arguments.clips) > 1:
            report("together", precision, counts)


if __name__ == "__main__":
    main()
