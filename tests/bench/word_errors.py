"""Word error rates as served: a list of recordings through ``waxwing transcribe`` with several settings, each compared with the first.

``python tests/bench/word_errors.py LIST.tsv SETTINGS...`` after ``cargo build --release``. LIST has a recording (beside it, its ending may be left out) and its
words in each line; SETTINGS are flags in one argument, such as ``"--rescoring-weight 0"`` or ``""`` for the defaults. Prints errors of words with a
95 % bootstrap interval over recordings, and how many points the first settings are worse, by a paired bootstrap.
"""

import argparse
import json
import random
import subprocess
from pathlib import Path

from words import SUFFIXES, distance


def read(path):
    """Recordings and their words."""
    lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    found = lambda name: next(file for suffix in ("", *sorted(SUFFIXES)) if (file := path.parent / (name + suffix)).is_file())
    return [found(name) for name, _ in lines], [text.split() for _, text in lines]


def errors(binary, settings, clips, wanted):
    """Word errors of every recording."""
    lines = subprocess.run([binary, "transcribe", "--format", "json", *settings.split(), *clips], check=True, capture_output=True, text=True).stdout.splitlines()
    texts = [json.loads(line)["text"].split() for line in lines if line.strip()]
    assert len(texts) == len(clips), f"expected a transcript for each of {len(clips)} recordings, found {len(texts)}"
    return [distance(words, text) for words, text in zip(wanted, texts)]


def interval(values, words, draws=2000):
    """Percent of words, and its 95 % interval."""
    chance = random.Random(1)
    share = lambda sample: 100 * sum(values[i] for i in sample) / sum(words[i] for i in sample)
    shares = sorted(share(chance.choices(range(len(words)), k=len(words))) for _ in range(draws))
    return share(range(len(words))), shares[draws // 40], shares[-draws // 40 - 1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("list", type=Path)
    parser.add_argument("settings", nargs="+")
    parser.add_argument("--waxwing", type=Path, default=Path(__file__).resolve().parents[2] / "target/release/waxwing")
    arguments = parser.parse_args()
    clips, wanted = read(arguments.list)
    words = [len(text) for text in wanted]
    print(f"{len(clips)} recordings, {sum(words)} words")
    print("| settings | word errors, % | 95 % interval | points better than the first | 95 % interval |\n|---|---|---|---|---|")
    first = None
    for settings in arguments.settings:
        found = errors(arguments.waxwing, settings, clips, wanted)
        first = first or found
        (rate, low, high), (better, least, most) = interval(found, words), interval([a - b for a, b in zip(first, found)], words)
        print(f"| `{settings or 'defaults'}` | {rate:.1f} | {low:.1f}–{high:.1f} | {better:.1f} | {least:.1f} to {most:.1f} |", flush=True)


if __name__ == "__main__":
    main()
