"""``train/run --smoke``: the whole recipe from nothing but packages, far too briefly to learn anything, ends in model directories that the program loads.

And the shipped models do in the program what they do in the training code. The folder ``target/recipe`` keeps the recipe's Python environment and downloads from run to run.
"""

import gzip
import json
import os
import pathlib
import random
import shutil
import struct
import subprocess
import wave
from xml.etree import ElementTree

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORK = ROOT / "target/recipe"
LIBRIVOX = pathlib.Path("/usr/share/pocketsphinx/test/data/librivox")
WAXWING = os.environ.get("WAXWING_BIN", str(ROOT / "target/release/waxwing"))
MODELS = ("en-emformer", "en-fsmn")
KEPT = ("venv", "downloads")


def run(*command, **options):
    """Runs a command to its end; its output is shown when it fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command}: exit {done.returncode}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
    return done.stdout


def transcribe(*arguments):
    """What ``waxwing transcribe`` hears in each recording."""
    return [json.loads(line)["text"] for line in run(WAXWING, "transcribe", "--format", "json", *arguments).splitlines()]


def recipe_python(program, *arguments):
    """Runs one program of the recipe in the recipe's own environment."""
    return run(WORK / "venv/bin/python", ROOT / "train" / program, *arguments, cwd=ROOT / "train")


@pytest.fixture(scope="session")
def work():
    """The folder that the smoke run has made."""
    if WORK.exists():
        for path in WORK.iterdir():
            if path.name not in KEPT:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    run(ROOT / "train/run", "--smoke", "--work", WORK)
    return WORK


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("model", MODELS)
def test_the_recipe_ends_in_a_model_that_loads(work, model):
    clip = next(LIBRIVOX.glob("*.wav"))
    assert len(transcribe("--model", work / model, clip)) == 1
    settings = json.loads((work / model / "config.json").read_text())
    shipped = json.loads((ROOT / "model/pretrained" / model / "config.json").read_text())
    assert settings == shipped, "the recipe makes another network than the shipped one"


@pytest.mark.parametrize("stage", ["head", "upper", "small", "sounds"])
def test_every_stage_measures_itself(work, stage):
    last = log_of(work / stage)[-1]
    assert last["step"] > 0 and last["hours"] > 0
    errors = last["librivox/phones"] if stage == "sounds" else last["librivox/pieces"][0]
    assert errors > 0, "a model that has learnt nothing makes errors"


def test_nothing_that_is_measured_is_trained_on(work):
    measured = [line.split("\t")[1].split() for line in (work / "unpacked/usr/share/pocketsphinx/test/data/librivox/librivox.tsv").read_text().splitlines()]
    measured += [line.split("\t")[1].split() for line in (work / "dev-actors/text.tsv").read_text().splitlines()]
    runs = {tuple(words[at:at + 5]) for words in measured for at in range(len(words) - 4)}
    heard = [text.split() for path in (work / "speech").glob("shard-*.json") for _, _, text, _ in json.loads(path.read_text())]
    assert len(heard) > 30 and len(runs) > 30
    assert not [words for words in heard for at in range(len(words) - 4) if tuple(words[at:at + 5]) in runs]


@pytest.mark.parametrize("picture", ["curves.svg", "curves-fsmn.svg"])
def test_the_curves_are_drawn(work, picture):
    points = ElementTree.parse(work / picture).getroot().iter("{http://www.w3.org/2000/svg}circle")
    assert list(points), "no measurement in the picture"


def test_training_goes_on_where_it_was_interrupted(work):
    before = log_of(work / "small")[-1]
    recipe_python("train_fsmn.py", "--speech", work / "speech", "--teacher", work / "en-emformer", "--out", work / "small", "--minutes", before["minutes"] + 0.2, "--processes", 1, "--muon")
    after = log_of(work / "small")[-1]
    assert after["step"] > before["step"] and after["hours"] > before["hours"]


@pytest.mark.parametrize("model", MODELS)
def test_the_program_hears_what_the_training_code_hears(work, model):
    folder, texts = ROOT / "model/pretrained" / model, work / "unpacked/usr/share/pocketsphinx/test/data/librivox/librivox.tsv"
    shown = [line[2:] for line in recipe_python("evaluate.py", folder, texts, "--show").splitlines() if line.startswith("> ")]
    clips = [LIBRIVOX / f"{line.split(chr(9))[0]}.wav" for line in texts.read_text().splitlines()]
    assert len(shown) == 5 and all(shown)
    assert transcribe("--model", folder, "--beam-width", "1", *clips) == shown


def test_the_language_model_of_the_recipe_is_one_that_the_program_reads(work, tmp_path):
    shutil.copytree(work / "en-fsmn", tmp_path / "model")
    shutil.copy(work / "en-ngram.arpa", tmp_path / "model/language_model.bin")
    assert len(transcribe("--model", tmp_path / "model", "--beam-width", "4", *sorted(LIBRIVOX.glob("*.wav"))[:1])) == 1


DISTRIBUTIONS = """
import numpy as np
import language_model as lm

draw = np.random.default_rng(3)
corpus = lm.Corpus(["never say these words"])
kinds = [corpus.add(" ".join(draw.choice(list(letters), draw.integers(1, 9))) for _ in range(400))[0] for letters in ("abcdefg", "efghijk")]
assert len(corpus.add(["we never say these words", "we"])[0]) == 3
names, renamed = lm.vocabulary(corpus.ids, kinds, 9)
ids = {name: number for number, name in enumerate(names)}
models = [lm.estimate(renamed[kind], len(names)) for kind in kinds]
weights = lm.shares(models, [lm.encode(["a b c d", "e f g a"], ids)])
assert weights[0] > 0.9 and abs(weights.sum() - 1) < 1e-9, weights
sizes = []
for threshold in (-np.inf, 0, 300, 3000):
    model = lm.pruned(*lm.mixture(models, [0.7, 0.3]), threshold)
    sizes.append(len(model[2][0]))
    words = np.delete(np.arange(len(names)), lm.BEGIN)
    for history in [lm.BEGIN, *range(lm.END + 1, len(names))]:
        assert abs(lm.pairs_of(model, (history << lm.BITS) | words).sum() - 1) < 1e-6, (threshold, history)
        for before in range(lm.END + 1, len(names)) if history != lm.BEGIN else ():
            assert abs(lm.triples_of(model, (before << 2 * lm.BITS) | (history << lm.BITS) | words).sum() - 1) < 1e-6, (threshold, before, history)
assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[2] > sizes[3], sizes
"""


def test_what_the_language_model_says_behind_any_words_sums_to_one(work):
    run(WORK / "venv/bin/python", "-c", DISTRIBUTIONS, cwd=ROOT / "train")


EVERYTHING = """
import itertools
import numpy as np
import torch
import phone_sequences

torch.manual_seed(0)
draw = np.random.default_rng(0)
classes, frames = 3, 5
follows = draw.random((classes,) * 3).astype(np.float32)
log_probs = torch.randn(2, frames, classes).log_softmax(-1).requires_grad_()
lengths = torch.tensor([frames, 3])
found = phone_sequences.Everything.apply(log_probs, lengths, follows)
for item, length in enumerate(lengths.tolist()):
    expected = 0
    for path in itertools.product(range(classes), repeat=length):
        said = [phone for at, phone in enumerate(path) if phone and (at == 0 or phone != path[at - 1])]
        weight, before, last = 1, 0, 0
        for phone in [*said, 0]:
            weight, before, last = weight * follows[before, last, phone], last, phone
        expected = expected + weight * sum(log_probs[item, frame, phone] for frame, phone in enumerate(path)).exp()
    assert abs(found[item].item() - expected.log().item()) < 1e-5
    ours, theirs = (torch.autograd.grad(value, log_probs, retain_graph=True)[0] for value in (found[item], expected.log()))
    assert (ours - theirs).abs().max() < 1e-5

usual = phone_sequences.triples([[1, 2, 3], [1, 2], [4, 2, 3]])
assert np.allclose(usual.sum(-1), 1, atol=1e-5)
assert usual[1, 2, 3] > usual[1, 2, 1] and usual[0, 0, 1] > usual[0, 0, 2]
"""


def test_the_loss_of_phones_is_the_sum_over_all_paths(work):
    run(WORK / "venv/bin/python", "-c", EVERYTHING, cwd=ROOT / "train")


def test_the_pronunciations_of_the_recipe_are_those_of_its_language_model(work):
    lines = gzip.decompress((work / "en-fsmn/pronunciations.txt.gz").read_bytes()).decode().splitlines()
    said = dict(line.split("\t") for line in lines)
    names = json.loads((work / "en-fsmn/config.json").read_text())["phones"]["names"]
    assert len(said) > 500 and said["the"] in ("DH AH", "DH IY")
    assert {phone for phones in said.values() for phone in phones.split()} <= set(names)
    known = (work / "en-ngram.arpa").read_text().split("\\2-grams")[0]
    assert all(f"\t{word}\t" in known or f"\t{word}\n" in known for word in said)


def recording(path, seed):
    """A second and a half of something that is loud and quiet in turn, as speech is. What kind of file it is stands in it, not in its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    chance = random.Random(seed)
    samples = [int(chance.gauss(0, 3000)) if index // 4000 % 2 else 0 for index in range(24_000)]
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", None))
        file.writeframes(struct.pack(f"<{len(samples)}h", *samples))


def test_recordings_are_read_in_the_forms_that_their_originals_have(work, tmp_path):
    recording(tmp_path / "read/19/198/19-198-0000.flac", 1)
    recording(tmp_path / "read/19/198/19-198-0001.flac", 2)
    recording(tmp_path / "read/103-1240-0001.flac", 3)
    (tmp_path / "read/19/198/19-198.trans.txt").write_text("19-198-0000 NORTHANGER ABBEY\n19-198-0001 ONE TWO THREE FOUR FIVE\n")
    (tmp_path / "list.tsv").write_text("103-1240-0001\tTHAT HAD ITS SOURCE AWAY BACK\n103-1240-0002\t\n")
    for index in range(3):
        recording(tmp_path / f"crowd/cv-valid-dev/{index}.mp3", 10 + index)
    rows = ["filename,text,up_votes,down_votes", "cv-valid-dev/0.mp3,be careful said the stranger,1,0", "cv-valid-dev/1.mp3,nobody said that,1,1", "cv-valid-dev/2.mp3,i am 12,3,0"]
    (tmp_path / "crowd/cv-valid-dev.csv").write_text("\n".join(rows) + "\n")
    recording(tmp_path / "an4/wav/an251-fash-b.sph", 20)
    (tmp_path / "an4/etc").mkdir()
    (tmp_path / "an4/etc/an4_train.transcription").write_text("<s> RUBOUT G M </s> (an251-fash-b)\n\n")
    (tmp_path / "measured.tsv").write_text("0\tone two three four five\n")
    recipe_python("fetched_speech.py", "--out", tmp_path / "speech", "--librispeech", tmp_path / "read", "--librispeech-lists", tmp_path / "list.tsv",
                  "--crowd", tmp_path / "crowd", "--an4", tmp_path / "an4", "--forbidden", tmp_path / "measured.tsv")
    heard = {name: [text for *_, text, _ in json.loads((tmp_path / f"speech/shard-{name}.json").read_text())] for name in ("librispeech", "crowd", "an4")}
    assert heard == {"librispeech": ["that had its source away back", "northanger abbey"], "crowd": ["be careful said the stranger"], "an4": ["rubout g m"]}
