"""The English n-gram beside the default model: a mixture of modified Kneser-Ney models, pruned, as ARPA.

``python language_model.py PACKAGES OUT.arpa [--checkouts DIR] [--forbidden LIST]... [--like LIST]...`` reads the texts of ``language_texts.py``, estimates a model of each kind, mixes them so that every other line
of the ``--like`` lists is as probable as can be, prunes the mixture, writes the ARPA file, then prints its size and its perplexity on sentences held out. ``LanguageModel::to_bytes`` makes the compact form of it.

The estimator is interpolated modified Kneser-Ney (Chen and Goodman, "An empirical study of smoothing techniques", 1998, section 3): counts of words at the highest order, of different left neighbours below it.
A kind of text with a hundredth of the words of another has its say by its weight, found by expectation maximisation, not by its size. N-grams whose loss would cost little text leave (Seymore and Rosenfeld,
"Scalable backoff language models", 1996; how often an n-gram comes is what the mixture itself says, as in Stolcke, "Entropy-based pruning of backoff language models", 1998), and the back-off weights are computed anew, so that every
distribution sums to 1.
"""

import argparse
from itertools import chain
from pathlib import Path

import numpy as np

import text
from language_texts import KINDS, commands

BITS = 20
WORD, PAIR = (1 << BITS) - 1, (1 << 2 * BITS) - 1              # the last word of a key, the last two
UNKNOWN, BEGIN, END = 0, 1, 2
LONGEST = 40                                                   # words of a sentence
OUT_OF = 50                                                    # sentences, one is held out


class Corpus:
    """Sentences as arrays of word numbers; every sentence once, none that overlaps with a forbidden one."""

    def __init__(self, forbidden):
        self.ids, self.grams = {"<unk>": UNKNOWN, "<s>": BEGIN, "</s>": END}, text.runs_of_words(forbidden)
        self.seen, self.added = set(), 0

    def add(self, sentences, once=True):
        """(training, held out): arrays i32 in which each sentence stands between BEGIN and END."""
        found = ([], [])
        for sentence in sentences:
            words = sentence.split() if sentence else []
            if not 0 < len(words) <= LONGEST or (once and hash(sentence) in self.seen) or text.overlaps(sentence, self.grams):
                continue
            self.seen.add(hash(sentence))
            self.added += 1
            found[self.added % OUT_OF == 0].extend((BEGIN, *(self.ids.setdefault(word, len(self.ids)) for word in words), END))
        return tuple(np.array(part, np.int32) for part in found)


def vocabulary(ids, kinds, most):
    """(names, the new number of each old one): the words that come at least twice in some kind, those with the largest share of their kinds first."""
    share = np.zeros(len(ids))
    for training in kinds:
        count = np.bincount(training, minlength=len(ids))
        share += np.where(count > 1, count / len(training), 0)
    share[:END + 1] = np.inf
    order = np.argsort(-share, kind="stable")[:most + END + 1]
    order = order[share[order] > 0]
    renamed = np.zeros(len(ids), np.int64)
    renamed[order] = np.arange(len(order))
    names = list(ids)
    return [names[i] for i in order], renamed


def encode(sentences, ids):
    return np.array([i for words in map(str.split, sentences) for i in (BEGIN, *(ids.get(word, UNKNOWN) for word in words), END)], dtype=np.int64)


def everyday(training, ids, count):
    """Sentences drawn from templates, with single words as frequent as in the text."""
    names = list(ids)
    drawn = text.Everyday(np.random.default_rng(1), [names[i] for i in training if i > END])
    drawn.words, drawn.weight = np.array(drawn.words), np.array(drawn.weight)    # as arrays, or every draw converts the lists
    return (drawn.draw()[1] for _ in range(count))


def discount(counts, adjusted):
    """D(c) for the counts of one order (Chen and Goodman, equation 26)."""
    n1, n2, n3, n4 = (max(1, int((adjusted == i).sum())) for i in (1, 2, 3, 4))
    y = n1 / (n1 + 2 * n2)
    table = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    return np.clip(table, 0.0, [0, 0.999, 1.999, 2.999])[np.minimum(counts, 3)]


def interpolate(keys, counts, lower):
    """p(w | h) of all n-grams: ``keys`` are sorted, ``lower`` is the probability of each without its first word."""
    contexts, owner = np.unique(keys >> BITS, return_inverse=True)
    taken = discount(counts, counts)
    total = np.bincount(owner, counts, len(contexts))
    gamma = np.bincount(owner, taken, len(contexts)) / total
    return (counts - taken) / total[owner] + gamma[owner] * lower


def find(keys, wanted):
    """Where each of ``wanted`` stands in the sorted ``keys``, and whether it does."""
    index = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return index, keys[index] == wanted


def back_off(contexts, keys, probability, lower):
    """The weight of each context, so that what is listed and what is not sum to 1."""
    owner, _ = find(contexts, keys >> BITS)
    listed = np.bincount(owner, probability, len(contexts))
    below = np.bincount(owner, lower, len(contexts))
    return np.where(np.bincount(owner, minlength=len(contexts)) > 0, np.maximum(1 - listed, 1e-9) / np.maximum(1 - below, 1e-9), 1.0)


def estimate(ids, num_words):
    """A model of all n-grams of a text: (probabilities, back-off weights) of words, (keys, probabilities, back-off weights) of pairs, (keys, probabilities) of triples."""
    inside = ids[1:] != BEGIN
    two, two_count = np.unique(((ids[:-1] << BITS) | ids[1:])[inside], return_counts=True)
    whole = inside[1:] & (ids[1:-1] != BEGIN)
    three, three_count = np.unique(((ids[:-2] << 2 * BITS) | (ids[1:-1] << BITS) | ids[2:])[whole], return_counts=True)
    # Below the highest order: how many different words come before, except where none can.
    suffix, neighbours = np.unique(three & PAIR, return_counts=True)
    index, found = find(suffix, two)
    found &= (two >> BITS) != BEGIN
    two_count[found] = neighbours[index[found]]
    one_count = np.bincount(two & WORD, minlength=num_words)
    taken = discount(one_count, one_count[one_count > 0])
    one_p = (one_count - taken) / one_count.sum() + taken.sum() / one_count.sum() / (num_words - 1)
    one_p[BEGIN] = 0.0
    two_p = interpolate(two, two_count, one_p[two & WORD])
    return weighted(one_p, two, two_p, three, interpolate(three, three_count, two_p[find(two, three & PAIR)[0]]))


def weighted(one_p, two, two_p, three, three_p):
    """The model with its back-off weights. Of every triple, the first two and the last two words are among the pairs."""
    one_back_off = back_off(np.arange(len(one_p)), two, two_p, one_p[two & WORD])
    return (one_p, one_back_off), (two, two_p, back_off(two, three, three_p, two_p[find(two, three & PAIR)[0]])), (three, three_p)


def pairs_of(model, keys):
    """p(w | v) of any pairs."""
    (one_p, one_back_off), (two, two_p, _), _ = model
    index, found = find(two, keys)
    return np.where(found, two_p[index], one_back_off[keys >> BITS] * one_p[keys & WORD])


def triples_of(model, keys):
    """p(w | u v) of any triples."""
    _, (two, _, two_back_off), (three, three_p) = model
    index, found = find(three, keys)
    context, listed = find(two, keys >> BITS)
    return np.where(found, three_p[index], np.where(listed, two_back_off[context], 1.0) * pairs_of(model, keys & PAIR))


def probabilities(model, ids):
    """Of each known word of encoded sentences, and of their ends."""
    at = np.flatnonzero((ids[1:] != BEGIN) & (ids[1:] != UNKNOWN)) + 1
    before = ids[at - 1]
    pair = (before << BITS) | ids[at]
    return np.where(before == BEGIN, pairs_of(model, pair), triples_of(model, (ids[np.maximum(at - 2, 0)] << 2 * BITS) | pair))


def perplexity(model, ids):
    """(perplexity, known words and ends, share of unknown ones)"""
    known = probabilities(model, ids)
    return np.exp(-np.log(known).mean()), len(known), (ids == UNKNOWN).mean()


def shares(models, texts, rounds=50):
    """The weights with which the models together find the texts most probable, each text as important as another."""
    weights = np.full(len(models), 1 / len(models))
    found = [np.stack([probabilities(model, ids) for model in models]) for ids in texts]
    for _ in range(rounds if texts else 0):
        parts = [weights[:, None] * of_text for of_text in found]
        weights = np.mean([(part / part.sum(0)).mean(1) for part in parts], 0)
    return weights


def mixture(models, weights):
    """(probabilities of words, pairs, theirs, triples, theirs): of every n-gram of any of the models, what they say of it together."""
    two, three = (np.unique(np.concatenate([model[order][0] for model in models])) for order in (1, 2))
    return (sum(weight * model[0][0] for weight, model in zip(weights, models)), two, sum(weight * pairs_of(model, two) for weight, model in zip(weights, models)),
            three, sum(weight * triples_of(model, three) for weight, model in zip(weights, models)))


def pruned(one_p, two, two_p, three, three_p, threshold):
    """The model without the n-grams that are worth less than ``threshold`` nats in a million words."""
    (_, one_back_off), (_, _, two_back_off), _ = weighted(one_p, two, two_p, three, three_p)
    suffix, context = find(two, three & PAIR)[0], find(two, three >> BITS)[0]
    first = one_p.copy()
    first[BEGIN] = one_p[END]                                  # a sentence begins as often as one ends
    two_share = 1e6 * first[two >> BITS] * two_p
    # The unknown word is predicted by no listed n-gram above the unigram's order, and nothing follows it.
    keep = ((three & WORD) != UNKNOWN) & (((three >> BITS) & WORD) != UNKNOWN) & ((three >> 2 * BITS) != UNKNOWN)
    keep &= two_share[context] * three_p * np.log(three_p / (two_back_off[context] * two_p[suffix])) > threshold
    three, three_p = three[keep], three_p[keep]
    needed = np.zeros(len(two), bool)
    needed[suffix[keep]] = needed[context[keep]] = True
    keep = ((two & WORD) != UNKNOWN) & ((two >> BITS) != UNKNOWN)
    keep &= needed | (two_share * np.log(two_p / (one_back_off[two >> BITS] * one_p[two & WORD])) > threshold)
    return weighted(one_p, two[keep], two_p[keep], three, three_p)


def write_arpa(path, names, model):
    (one_p, one_bow), (two, two_p, two_bow), (three, three_p) = model
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"\\data\\\nngram 1={len(names)}\nngram 2={len(two)}\nngram 3={len(three)}\n\n\\1-grams:\n")
        for name, p, bow in zip(names, one_p, one_bow):
            file.write(f"{np.log10(p) if p > 0 else -99:.5f}\t{name}\t{np.log10(bow):.5f}\n")
        file.write("\n\\2-grams:\n")
        for key, p, bow in zip(two.tolist(), np.log10(two_p), np.log10(two_bow)):
            file.write(f"{min(p, 0):.5f}\t{names[key >> BITS]} {names[key & WORD]}\t{bow:.5f}\n")
        file.write("\n\\3-grams:\n")
        for key, p in zip(three.tolist(), np.log10(three_p)):
            file.write(f"{min(p, 0):.5f}\t{names[key >> 2 * BITS]} {names[(key >> BITS) & WORD]} {names[key & WORD]}\n")
        file.write("\n\\end\\\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("packages", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--checkouts", type=Path, default=Path(), help="folder of repositories, each as OWNER+NAME")
    parser.add_argument("--forbidden", type=Path, nargs="*", default=[], help="lists (tab-separated: file, words) that nothing is learnt from")
    parser.add_argument("--like", type=Path, nargs="*", default=[], help="lists whose even lines say how much of each kind of text is wanted; of the forbidden ones, at best")
    parser.add_argument("--everyday", type=int, default=50_000, help="sentences drawn from templates")
    parser.add_argument("--words", type=int, default=65_000, help="in the vocabulary at most")
    parser.add_argument("--threshold", type=float, default=0.06, help="nats in a million words that an n-gram must be worth")
    arguments = parser.parse_args()
    transcripts = {path: [line.split("\t", 1)[1] for line in path.read_text().splitlines() if "\t" in line] for path in {*arguments.forbidden, *arguments.like}}
    corpus, found = Corpus(chain.from_iterable(transcripts.values())), {}
    for kind in KINDS:
        training, held_out = corpus.add(kind(arguments.packages, arguments.checkouts))
        if len(training):
            found[kind.__name__] = training, held_out
    # Everyday sentences are commands, too; their single words are those of the first kind that there is.
    drawn = corpus.add(everyday(next(iter(found.values()))[0], corpus.ids, arguments.everyday), once=False)
    nothing = np.zeros(0, np.int32)
    found[commands.__name__] = tuple(map(np.concatenate, zip(found.get(commands.__name__, (nothing, nothing)), drawn)))
    for name, (training, _) in found.items():
        print(f"{name}: {(training == BEGIN).sum()} sentences, {(training > END).sum()} words", flush=True)
    names, renamed = vocabulary(corpus.ids, [training for training, _ in found.values()], arguments.words)
    models = [estimate(renamed[training], len(names)) for training, _ in found.values()]
    ids = {name: number for number, name in enumerate(names)}
    weights = shares(models, [encode(transcripts[path][::2], ids) for path in arguments.like])
    print("weights:", ", ".join(f"{name} {weight:.3f}" for name, weight in zip(found, weights)), flush=True)
    model = pruned(*mixture(models, weights), arguments.threshold)
    write_arpa(arguments.out, names, model)
    print(f"{len(names)} / {len(model[1][0])} / {len(model[2][0])} n-grams")
    for name, encoded in chain(((name, renamed[held_out]) for name, (_, held_out) in found.items()), ((path, encode(transcripts[path], ids)) for path in arguments.like)):
        value, words, unknown = perplexity(model, encoded)
        print(f"{name}: perplexity {value:.1f} of {words} words and ends, {100 * unknown:.2f} % unknown")


if __name__ == "__main__":
    main()
