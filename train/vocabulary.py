"""Trains the SentencePiece model of the word-piece head on the sentences that will be synthesised."""

import argparse
from pathlib import Path

import numpy as np
import sentencepiece

import text


def train(packages, out, size, count, forbidden=()):
    """Writes ``out`` (``.model``): byte-pair pieces, no special symbols but ``<unk>`` in the place of the blank."""
    source = text.sentences(packages, np.random.default_rng(5), forbidden)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(next(source)[1] for _ in range(count)), model_prefix=str(out.with_suffix("")), vocab_size=size, model_type="bpe",
        character_coverage=1.0, bos_id=-1, eos_id=-1, pad_id=-1, unk_id=0, normalization_rule_name="identity", minloglevel=2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packages", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--count", type=int, default=150_000, help="sentences")
    options = parser.parse_args()
    train(options.packages, options.out, options.size, options.count)
