"""The texts of the language model, by kinds that differ in what is said and how: each kind becomes a model of its own, and the shipped one is a mixture of them.

All of them are in the public domain or under a licence that asks for attribution at most, or for nothing of what is computed from them; which ones, and where they come from, says the card
of ``model/pretrained/en-ngram``. ``checkouts`` is a folder of repositories, each as OWNER+NAME; what is missing there is left out. A sentence is in lower case without
punctuation; ``None`` stands for one that holds more than words.
"""

import csv
import html
import json
import re
import zipfile

import text

NUMBER = re.compile(r"\b\d{1,9}\b")
ABBREVIATIONS = {"mr.": "mister", "mrs.": "missus", "dr.": "doctor", "&": "and", "%": " percent"}
SHORT = re.compile(r"\b(mr|mrs|dr)\.|[&%]", re.IGNORECASE)
QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": " ", "\u2014": ","})
STOP = re.compile(r"(?<=[.!?;:])[\"')]*\s+")
AUTHORS = ("Agatha Christie|Baronness Orczy|Bram Stoker|Charles Dickens|Charlotte Bronte|D H Lawrence|Edgar Rice Burroughs|Edward Phillips Oppenheim|Emily Bronte|G K Chesterton|George Bernard Shaw|"
           "Hector Hugh Munro|Henry Rider Haggard|Herbert George Wells|Jack London|James Matthew Barrie|Jane Austen|Jerome Klapka Jerome|John Galsworthy|Joseph Conrad|Louisa May Alcott|"
           "Lucy Maud Montgomery|Lyman Frank Baum|Mark Twain|O Henry|Oscar Wilde|P G Wodehouse|Rafael Sabatini|Robert Louis Stevenson|Rudyard Kipling|Sinclair Lewis|Sir Arthur Conan Doyle|Stephen Leacock|"
           "Thomas Hardy|Wilkie Collins|William Somerset Maugham|William Wymark Jacobs|Zane Grey").split("|")


def spoken(sentence):
    """As it is read out, as far as numbers and a few signs go."""
    sentence = SHORT.sub(lambda found: ABBREVIATIONS[found.group().lower()], sentence.replace("_", ""))
    return text.normalise(NUMBER.sub(lambda found: text.number_words(int(found.group())), sentence).strip(" '*"))


def parts(passage):
    """The sentences of a passage."""
    plain = re.sub(r"\b([Mm]rs?|[Dd]r)\.", lambda found: ABBREVIATIONS[found.group().lower()], re.sub(r"\s+", " ", passage.translate(QUOTES)))
    return map(spoken, STOP.split(plain.strip()))


def read(path):
    source = path.read_bytes()
    try:
        return source.decode("utf-8")
    except UnicodeDecodeError:
        return source.decode("latin-1")


def lines(path):
    return read(path).splitlines() if path.exists() else []


def parsed(path, otherwise):
    return json.loads(read(path)) if path.exists() else otherwise


def glosses(packages, _):
    """WordNet's glosses and examples, three words or more."""
    for sentence in map(lambda found: spoken(found.strip(" .;,:'")), text._wordnet(packages)):
        if sentence and len(sentence.split()) >= 3:
            yield sentence


def books(_, checkouts):
    """Novels, stories and plays of Project Gutenberg: those that are checked out as ``GITenberg+TITLE_NUMBER``, and those of AUTHORS in Lahiri's collection."""
    paths = [next(filter(lambda path: path.exists(), (folder / f"{folder.name.rsplit('_', 1)[1]}{ending}.txt" for ending in ("-0", "-8", ""))), None) for folder in sorted(checkouts.glob("GITenberg+*"))]
    collection = checkouts / "LuEE-C+FewShotAuthorClassificationMetaLearning/Gutenberg/txt"
    paths += (path for path in sorted(collection.glob("*.txt")) if path.name.split("___")[0] in AUTHORS)
    for path in filter(None, paths):
        source = re.split(r"\*\*\* ?START OF.*?\*\*\*", read(path))[-1]
        source = re.split(r"\*\*\* ?END OF|End of (?:the )?Project Gutenberg", source)[0]
        for paragraph in re.split(r"\r?\n\s*\r?\n", source):
            yield from parts(paragraph)


def textbooks(_, checkouts):
    """Paragraphs of OpenStax's textbooks (``openstax+osbooks-*``, checked out where they are still under CC BY), without exercises, tables and formulas."""
    for path in sorted(checkouts.glob("openstax+osbooks-*/modules/*/index.cnxml")):
        source = re.sub(r"(?s)<(metadata|m:math|math|exercise|table|figure|equation|code|glossary)\b.*?</\1>", " ", read(path))
        for paragraph in re.findall(r"(?s)<(?:para|item)\b[^>]*>(.*?)</(?:para|item)>", source):
            yield from parts(html.unescape(re.sub(r"<[^>]+>", "", paragraph)))


def commands(_, checkouts):
    """What people say or write to assistants, banks, restaurants and shops, and the sentences that Common Voice's volunteers were given to read."""
    found = [line for part in parsed(checkouts / "clinc+oos-eval/data/data_full.json", {}).values() for line, _ in part]
    folder = checkouts / "PolyAI-LDN+task-specific-datasets"
    found += [row["text"] for row in csv.DictReader(lines(folder / "banking_data/train.csv"))]
    found += [turn["userInput"]["text"] for path in sorted((folder / "span_extraction/restaurant8k").glob("*.json")) for turn in json.loads(read(path))]
    for part in ("train", "devel", "test"):
        found += [json.loads(line)["sentence"] for line in lines(checkouts / f"pswietojanski+slurp/dataset/slurp/{part}.jsonl")]
    for path in sorted((checkouts / "snipsco+nlu-benchmark/2017-06-custom-intent-engines").glob("*/train_*_full.json")):
        found += ["".join(piece["text"] for piece in query["data"]) for queries in json.loads(read(path)).values() for query in queries]
    taskmaster = checkouts / "google-research-datasets+Taskmaster"
    found += [turn for line in lines(taskmaster / "TM-3-2020/splits/train/train-bc.tsv") for turn in re.findall(r"<[UA]>([^<]*)", line)]
    found += [turn["text"] for path in sorted(taskmaster.glob("TM-4-2024/data/data_*.json")) for order in json.loads(read(path)) for turn in order["utterances"] if turn["speaker"] == "user"]
    for path in sorted((checkouts / "mozilla+voice-web/server/data/en").glob("*.txt")):
        found += lines(path)
    for line in found:
        yield from parts(line)


def talk(_, checkouts):
    """Conversations, meetings, radio talk, speeches, and sentences that people wrote to learn languages by."""
    for path in sorted((checkouts / "alexa+Topical-Chat/conversations").glob("*_*.json")):
        for conversation in json.loads(read(path)).values():
            for turn in conversation["content"]:
                yield from parts(turn["message"])
    for path in sorted((checkouts / "gcunhase+AMICorpusXML/data/ami_dialsum_corpus").glob("*/in")):
        for line in lines(path):
            for turn in line.split("<EOS>"):
                yield from parts(turn)
    for path in sorted((checkouts / "Spacelog+Spacelog/missions").glob("*/transcripts/*")):
        for line in lines(path) if path.suffix == "" and path.name.isupper() else ():
            said = re.match(r"[A-Z][A-Z0-9 /()?-]*: (.*)", line)
            yield from parts(re.sub(r"\[[^\]]*\]|\.\.\.", "", said[1])) if said else ()
    for line in lines(checkouts / "Soubhagya264+Language_Translator-Encoder-Decoder-/fra.txt"):
        yield from parts(line.split("\t")[0])
    corpora = checkouts / "nltk+nltk_data/packages/corpora"
    for path in filter(lambda path: path.exists(), (corpora / "inaugural.zip", corpora / "state_union.zip", corpora / "masc_tagged.zip")):
        with zipfile.ZipFile(path) as archive:
            for member in filter(lambda name: name.endswith(".txt") and not name.endswith("categories.txt"), sorted(archive.namelist())):
                source = archive.read(member).decode("utf-8" if "masc" in member else "latin-1", "replace")
                if "masc" in member:                           # WORD_TAG WORD_TAG
                    source = re.sub(r" ('\w+|n't|[.,!?;:])(?= |$)", r"\1", " ".join(token.rsplit("_", 1)[0] for token in source.split() if "_" in token))
                yield from parts(source)


KINDS = (commands, talk, books, textbooks, glosses)
