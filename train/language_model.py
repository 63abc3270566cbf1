"""The English n-gram beside the default model: texts, modified Kneser-Ney, pruning, ARPA.

``python language_model.py PACKAGES OUT.arpa [--checkouts DIR] [--forbidden LIST]...`` reads WordNet as unpacked by ``fetch``, the books and utterances in
checkouts of the repositories below, and sentences drawn from templates, and writes the ARPA file, then prints its size and its perplexity on sentences held out.
``LanguageModel::to_bytes`` makes the compact form of it. Every text is in the public domain or under a licence that asks for attribution at most.

The estimator is interpolated modified Kneser-Ney (Chen and Goodman, "An empirical study of smoothing techniques", 1998, section 3): counts of
words at the highest order, of different left neighbours below it. Then n-grams whose loss costs the training text little leave (Seymore and Rosenfeld,
"Scalable backoff language models", 1996), and the back-off weights are computed anew, so that every distribution sums to 1.
"""

import argparse
import csv
import json
import re
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np

import text

BITS = 20
UNKNOWN, BEGIN, END = 0, 1, 2


NUMBER = re.compile(r"\b\d{1,9}\b")
ABBREVIATIONS = {"mr.": "mister", "mrs.": "missus", "dr.": "doctor", "&": "and", "%": " percent"}
SHORT = re.compile(r"\b(mr|mrs|dr)\.|[&%]", re.IGNORECASE)


def spoken(sentence):
    """As it is read out, as far as numbers and a few signs go; ``None`` when more is in it than words."""
    sentence = SHORT.sub(lambda found: ABBREVIATIONS[found.group().lower()], sentence.replace("_", ""))
    return text.normalise(NUMBER.sub(lambda found: text.number_words(int(found.group())), sentence).strip(" '*"))


def wordnet(root):
    """Glosses and examples, three words or more."""
    for sentence in text._wordnet(root):
        sentence = spoken(sentence.strip(" .;,:'"))
        if sentence and len(sentence.split()) >= 3:
            yield sentence


def books(checkouts):
    """Sentences of the books of Project Gutenberg that are checked out as ``GITenberg+TITLE_NUMBER``."""
    for folder in sorted(checkouts.glob("GITenberg+*")):
        number = folder.name.rsplit("_", 1)[1]
        names = [folder / f"{number}{ending}.txt" for ending in ("-0", "-8", "")]
        path = next(name for name in names if name.exists())
        source = path.read_bytes()
        try:
            source = source.decode("utf-8")
        except UnicodeDecodeError:
            source = source.decode("latin-1")
        source = re.split(r"\*\*\* ?START OF.*?\*\*\*", source)[-1]
        source = re.split(r"\*\*\* ?END OF|End of (?:the )?Project Gutenberg", source)[0]
        for paragraph in re.split(r"\r?\n\s*\r?\n", source):
            plain = re.sub(r"\s+", " ", paragraph.replace("\u201c", '"').replace("\u201d", '"').replace("\u2018", "'").replace("\u2019", "'"))
            plain = re.sub(r"\b(Mr|Mrs|Dr)\.", r"\1", plain)
            for sentence in re.split(r"(?<=[.!?;:])[\"']?\s+", plain):
                sentence = re.sub(r"\b(mr|mrs|dr)\b", lambda found: ABBREVIATIONS[found.group() + "."], sentence.lower())
                yield spoken(sentence)


def utterances(checkouts):
    """What people said or wrote to assistants, banks and restaurants: CLINC150, BANKING77, RESTAURANTS-8K."""
    found = json.loads((checkouts / "clinc+oos-eval/data/data_full.json").read_text())
    lines = [line for part in found.values() for line, _ in part]
    folder = checkouts / "PolyAI-LDN+task-specific-datasets"
    with open(folder / "banking_data/train.csv", encoding="utf-8", newline="") as file:
        lines += [row["text"] for row in csv.DictReader(file)]
    for path in sorted((folder / "span_extraction/restaurant8k").glob("*.json")):
        lines += [turn["userInput"]["text"] for turn in json.loads(path.read_text())]
    for line in lines:
        for sentence in re.split(r"(?<=[.!?])\s+", line):
            yield spoken(sentence)


def speeches(checkouts):
    """Inaugural addresses and messages of presidents of the United States, works of their government, as NLTK keeps them."""
    for name in ("inaugural", "state_union"):
        with zipfile.ZipFile(checkouts / "nltk+nltk_data/packages/corpora" / f"{name}.zip") as archive:
            for member in sorted(archive.namelist()):
                if not member.endswith(".txt"):
                    continue
                source = re.sub(r"\s+", " ", archive.read(member).decode("latin-1"))
                for sentence in re.split(r"(?<=[.!?;:])[\"']?\s+", source):
                    yield spoken(sentence)


def corpus(root, checkouts, rng, everyday_sentences):
    """Normalised sentences, each once if it is written; the drawn everyday ones as often as they are drawn."""
    sources = [wordnet(root)]
    if checkouts:
        sources += [books(checkouts), speeches(checkouts), utterances(checkouts)]
    seen, written = set(), []
    for source in sources:
        before, words = len(written), 0
        for sentence in source:
            if sentence and sentence not in seen and len(sentence.split()) <= 40:
                seen.add(sentence)
                written.append(sentence)
                words += len(sentence.split())
        print(f"{source.__name__}: {len(written) - before} sentences, {words} words")
    everyday = text.Everyday(rng, [word for sentence in written for word in sentence.split()])
    # As arrays, or every draw converts the lists.
    everyday.words, everyday.weight = np.array(everyday.words), np.array(everyday.weight)
    written.extend(filter(None, (everyday.draw()[1] for _ in range(everyday_sentences))))
    return written


def allowed(sentences, forbidden):
    """Leaves out what shares five words in a row with a forbidden text, or holds a whole one of three or four."""
    grams = set()
    for words in map(str.split, forbidden):
        if len(words) >= 3:
            grams.update(tuple(words[i:i + 5]) for i in range(max(1, len(words) - 4)))
    for sentence in sentences:
        words = sentence.split()
        if not any(tuple(words[i:i + n]) in grams for n in (3, 4, 5) for i in range(len(words) - n + 1)):
            yield words


def count_words(sentences, vocabulary_size, least):
    """Words by frequency behind the three special ones, and all sentences as one array of ids."""
    counts = Counter(word for words in sentences for word in words)
    names = ["<unk>", "<s>", "</s>"] + [word for word, count in counts.most_common(vocabulary_size) if count >= least]
    return names, {name: index for index, name in enumerate(names)}


def encode(sentences, ids):
    return np.array([i for words in sentences for i in (BEGIN, *(ids.get(word, UNKNOWN) for word in words), END)], dtype=np.int64)


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


def train(ids, num_words, threshold, least_trigram):
    """Returns the pruned model: probabilities and back-off weights of unigrams, keys with both of bigrams, keys and probabilities of trigrams."""
    mask = (1 << BITS) - 1
    inside = ids[1:] != BEGIN
    bigram_tokens = ((ids[:-1] << BITS) | ids[1:])[inside]
    whole = inside[1:] & (ids[1:-1] != BEGIN)
    trigram_tokens = ((ids[:-2] << 2 * BITS) | (ids[1:-1] << BITS) | ids[2:])[whole]
    three, three_count = np.unique(trigram_tokens, return_counts=True)
    two, two_raw = np.unique(bigram_tokens, return_counts=True)
    # Below the highest order: how many different words come before, except where none can.
    suffix, neighbours = np.unique(three & (1 << 2 * BITS) - 1, return_counts=True)
    two_count = two_raw.copy()
    index, found = find(suffix, two)
    starts = (two >> BITS) == BEGIN
    two_count[found & ~starts] = neighbours[index[found & ~starts]]
    one_count = np.bincount(two & mask, minlength=num_words)

    uniform = 1.0 / (num_words - 1)
    taken = discount(one_count, one_count[one_count > 0])
    one_p = (one_count - taken) / one_count.sum() + taken.sum() / one_count.sum() * uniform
    one_p[BEGIN] = 0.0
    two_p = interpolate(two, two_count, one_p[two & mask])
    suffix_index, _ = find(two, three & (1 << 2 * BITS) - 1)
    three_p = interpolate(three, three_count, two_p[suffix_index])

    # What the training text loses, in natural log, with each n-gram.
    two_gamma = back_off(np.arange(num_words), two, two_p, one_p[two & mask])
    context_index, _ = find(two, three >> BITS)
    three_gamma = back_off(two, three, three_p, two_p[suffix_index])
    loss = three_count * np.log(three_p / (three_gamma[context_index] * two_p[suffix_index]))
    # The unknown word is predicted by no listed n-gram above the unigram's order, and nothing follows it.
    known = ((three & mask) != UNKNOWN) & (((three >> BITS) & mask) != UNKNOWN) & ((three >> 2 * BITS) != UNKNOWN)
    keep = known & (three_count >= least_trigram) & (loss > threshold)
    three, three_p, suffix_index, context_index = three[keep], three_p[keep], suffix_index[keep], context_index[keep]
    needed = np.zeros(len(two), bool)
    needed[suffix_index] = needed[context_index] = True
    loss = two_raw * np.log(two_p / (two_gamma[two >> BITS] * one_p[two & mask]))
    known = ((two & mask) != UNKNOWN) & ((two >> BITS) != UNKNOWN)
    keep = known & (needed | (loss > threshold))
    two, two_p = two[keep], two_p[keep]

    one_bow = back_off(np.arange(num_words), two, two_p, one_p[two & mask])
    suffix_index, _ = find(two, three & (1 << 2 * BITS) - 1)
    two_bow = back_off(two, three, three_p, two_p[suffix_index])
    return (one_p, one_bow), (two, two_p, two_bow), (three, three_p)


def perplexity(model, ids):
    (one_p, one_bow), (two, two_p, two_bow), (three, three_p) = model
    mask = (1 << BITS) - 1
    inside = np.flatnonzero(ids[1:] != BEGIN) + 1
    word, before = ids[inside], ids[inside - 1]
    index, found = find(two, (before << BITS) | word)
    p2 = np.where(found, two_p[index], one_bow[before] * one_p[word])
    earlier = np.where(before == BEGIN, 0, ids[np.maximum(inside - 2, 0)])
    context = (earlier << BITS) | before
    context_index, has_context = find(two, context)
    has_context &= before != BEGIN
    index, found = find(three, (context << BITS) | word)
    p3 = np.where(found & (before != BEGIN), three_p[index], np.where(has_context, two_bow[context_index], 1.0) * p2)
    known = word != UNKNOWN
    assert mask >= ids.max()
    return np.exp(-np.log(p3[known]).mean()), int(known.sum()), float((~known).mean())


def write_arpa(path, names, model):
    (one_p, one_bow), (two, two_p, two_bow), (three, three_p) = model
    mask = (1 << BITS) - 1
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"\\data\\\nngram 1={len(names)}\nngram 2={len(two)}\nngram 3={len(three)}\n\n\\1-grams:\n")
        for name, p, bow in zip(names, one_p, one_bow):
            file.write(f"{np.log10(p) if p > 0 else -99:.5f}\t{name}\t{np.log10(bow):.5f}\n")
        file.write("\n\\2-grams:\n")
        for key, p, bow in zip(two.tolist(), np.log10(two_p), np.log10(two_bow)):
            file.write(f"{min(p, 0):.5f}\t{names[key >> BITS]} {names[key & mask]}\t{bow:.5f}\n")
        file.write("\n\\3-grams:\n")
        for key, p in zip(three.tolist(), np.log10(three_p)):
            file.write(f"{min(p, 0):.5f}\t{names[key >> 2 * BITS]} {names[(key >> BITS) & mask]} {names[key & mask]}\n")
        file.write("\n\\end\\\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("packages", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--checkouts", type=Path, help="folder of repositories, each as OWNER+NAME")
    parser.add_argument("--forbidden", type=Path, nargs="*", default=[], help="lists (tab-separated: file, words) that nothing is learnt from")
    parser.add_argument("--everyday", type=int, default=80_000)
    parser.add_argument("--words", type=int, default=40_000)
    parser.add_argument("--least", type=int, default=3, help="occurrences that a word needs")
    parser.add_argument("--threshold", type=float, default=3.0, help="natural log of likelihood that an n-gram must be worth")
    arguments = parser.parse_args()
    forbidden = [line.split("\t", 1)[1] for path in arguments.forbidden for line in path.read_text().splitlines() if "\t" in line]
    rng = np.random.default_rng(1)
    sentences = list(allowed(corpus(arguments.packages, arguments.checkouts, rng, arguments.everyday), forbidden))
    order = rng.permutation(len(sentences))
    held_out = [sentences[i] for i in order[:len(order) // 50]]
    training = [sentences[i] for i in order[len(order) // 50:]]
    names, ids = count_words(training, arguments.words, arguments.least)
    encoded = encode(training, ids)
    model = train(encoded, len(names), arguments.threshold, 2)
    write_arpa(arguments.out, names, model)
    value, words, unknown = perplexity(model, encode(held_out, ids))
    print(f"{len(training)} sentences, {len(encoded) - 2 * len(training)} words; {len(names)} / {len(model[1][0])} / {len(model[2][0])} n-grams; "
          f"perplexity {value:.1f} on {words} held-out words, {100 * unknown:.2f} % unknown")


if __name__ == "__main__":
    main()
