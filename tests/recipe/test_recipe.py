"""``train/run --smoke``: the whole recipe from nothing but packages, far too briefly to learn anything, ends in model directories that the program loads.

And the shipped models do in the program what they do in the training code. The folder ``target/recipe`` keeps the recipe's Python environment and downloads from run to run.
"""

import json
import os
import pathlib
import shutil
import subprocess
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


@pytest.mark.parametrize("stage", ["head", "upper", "small"])
def test_every_stage_measures_itself(work, stage):
    last = log_of(work / stage)[-1]
    assert last["step"] > 0 and last["hours"] > 0
    errors, _ = last["librivox/pieces"]
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
