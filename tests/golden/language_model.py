"""Golden data for language models: an ARPA file with everything that back-off can meet, and what KenLM makes of it.

``python language_model.py`` writes ``language_model.arpa`` and ``language_model.json`` next to itself. The probabilities and weights are random:
the law is the same for any. Half of the n-grams are left out, a weight is missing here and there, and the sentences hold unknown words.
"""

import itertools
import json
import random
from pathlib import Path

import kenlm

HERE = Path(__file__).parent
ORDER, WORDS = 4, "a bee sea dee he's eff".split()


def main():
    rng = random.Random(5)
    levels = [[(word,) for word in ["<unk>", "<s>", "</s>", *WORDS]]]
    for _ in range(1, ORDER):
        grown = [before + (word,) for before, word in itertools.product(levels[-1], [*WORDS, "</s>"]) if before[-1] != "</s>" and "<unk>" not in before]
        # An n-gram stands only where its end stands too, as in any model that was estimated.
        below = set(levels[-1])
        levels.append([ngram for ngram in grown if ngram[1:] in below and rng.random() < 0.6])
    lines = ["\\data\\", *(f"ngram {n}={len(level)}" for n, level in enumerate(levels, 1))]
    for n, level in enumerate(levels, 1):
        lines += ["", f"\\{n}-grams:"]
        for ngram in level:
            weight = "" if n == ORDER or ngram[-1] == "</s>" or rng.random() < 0.2 else f"\t{rng.uniform(-1.5, 0.3):.4f}"
            lines.append(f"{-99 if ngram == ('<s>',) else rng.uniform(-4, 0):.4f}\t{' '.join(ngram)}{weight}")
    path = HERE / "language_model.arpa"
    path.write_text("\n".join([*lines, "", "\\end\\", ""]))
    model = kenlm.Model(str(path))
    sentences = []
    for _ in range(300):
        words = rng.choices([*WORDS, "zed"], k=rng.randint(0, 9))
        scores = [score for score, _, _ in model.full_scores(" ".join(words), bos=True, eos=True)]
        sentences.append({"words": words, "log10": [round(score, 6) for score in scores]})
    (HERE / "language_model.json").write_text(json.dumps({"order": model.order, "sentences": sentences}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
