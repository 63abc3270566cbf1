"""How the words of a language model are pronounced, for the small model's search by phones: ``pronunciations.txt.gz``, a line for each pronunciation, ``word<TAB>PHONE PHONE …``.

All pronunciations of CMU's dictionary, without stress; words that it lacks by the letter-to-sound rules of Flite's ``t2p``.
"""

import argparse
import gzip
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from phones import NAMES, Phones

FLITE = {"ax": "AH", "pau": ""}                                # of its phones those that CMU's dictionary calls otherwise


def vocabulary(arpa):
    """The words of an ARPA file."""
    with open(arpa, encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("\\1-grams:"):
                break
        for line in lines:
            if not line.strip():
                return
            word = line.split("\t")[1].strip()
            if not word.startswith("<"):
                yield word


def by_rule(word):
    """What Flite makes of a word, as names of phones."""
    said = subprocess.run(["t2p", word], capture_output=True, text=True, check=True).stdout.split()
    phones = [FLITE.get(phone, phone.upper()) for phone in (phone.rstrip("012") for phone in said)]
    return [phone for phone in phones if phone in NAMES]


def pronounced(words):
    """{word: [pronunciation, …]}, names of phones; words that nobody can say are left out."""
    known, said = Phones().all, {}
    words = sorted(set(words))
    lacking = [word for word in words if word not in known]
    if not shutil.which("t2p"):
        print(f"flite's t2p is not there: {len(lacking)} words are left out, such as {', '.join(lacking[:5])}")
        words, lacking = [word for word in words if word in known], []
    with ThreadPoolExecutor(4) as pool:
        guessed = dict(zip(lacking, pool.map(by_rule, lacking)))
    for word in words:
        ways = [[NAMES[phone - 1] for phone in one] for one in known[word]] if word in known else [guessed[word]]
        said[word] = [list(way) for way in dict.fromkeys(map(tuple, ways)) if way]
    return {word: ways for word, ways in said.items() if ways}


def write(said, out):
    """The list, packed; the same bytes for the same words."""
    text = "".join(f"{word}\t{' '.join(way)}\n" for word, ways in said.items() for way in ways)
    out.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arpa", type=Path, help="the language model whose words are meant")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    write(pronounced(vocabulary(options.arpa)), options.out)
