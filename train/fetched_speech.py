"""Recorded English speech with its words from one Debian package and public repositories, as shards beside those of ``recordings.py``.

* ``drascula``: *Drascula: The Vampire Strikes Back* (1996), a third adventure game of Debian's main section (``drascula``, and ``scummvm-data`` for ``drascula.dat``):
  8 bits at 11 kHz, about ten actors, 0.69 h. Free to pass on and to change with its notices, as the other two games are. Text: the
  English strings of ``drascula.dat``; a clip's name says which table and which line.
* ``ljspeech``: 141 clips, 0.27 h, of LJSpeech (one woman reads Victorian and later non-fiction for LibriVox), public domain, from
  the repository ``PhilippMatthes/dc_tts``. Text: LJSpeech's own, as the file lists of ``jaywalnut310/vits`` (``ljs_audio_text_*_filelist.txt``) give it,
  numbers and abbreviations spelled out.
* ``digits``: Free Spoken Digit Dataset (``Jakobovski/free-spoken-digit-dataset``), 3,000 digits at 8 kHz by six speakers, 0.45 h, CC BY-SA 4.0, strung together by speaker to runs of three
  to seven with pauses of 0.05 to 0.25 s. Text: the file names.
* ``speechocean``: speechocean762 (``jimbozhang/speechocean762``), 5,000 sentences read by 250 people whose first language is Mandarin, children among them, on their own telephones, 4.6 h at
  16 kHz, Apache 2.0 where its authors publish it (Zhang et al., Interspeech 2021). Text: the repository's own, in Kaldi's form.
* ``voxforge``: 220 sessions of VoxForge that ``arishakashif/speaker-recognition`` holds, 69 user names, 2.7 h, GPL v3. Text: each session's ``etc/PROMPTS``, nearly all of it CMU ARCTIC's sentences.
* ``cathy``: ``rhasspy/dataset-voice-cathy``, one woman reads CMU ARCTIC's sentences, 1.35 h, CC0. Text: beside each clip. (``rhasspy/dataset-voice-kathleen`` has the same recordings.)
* ``commonvoice``: clips of Mozilla's Common Voice, CC0, that ``omnilingo/rsample-100-cv-corpus-6.1-2020-12-11`` (its ``en``), ``puri-gagan/speechdataset`` hold, some 100 speakers,
  0.2 h. Text: ``validated.tsv``. Another 713 clips by 176 people, of the additions of 2024 (``shubhra-cv/17``, ``18``, ``19``), are measured on and never trained on (``--measured``).
* ``librispeech``: LibriSpeech (Panayotov et al. 2015), volunteers who read books for LibriVox, CC BY 4.0: Mini LibriSpeech's ``train-clean-5`` (``zhangrui0712/Voice-Age``: 1,519 utterances, 28 readers, 5.3 h) and
  one utterance of each of train-clean-100's 251 readers (``resemble-ai/Resemblyzer``, 0.9 h). Text: ``*.trans.txt``, and for the second its own transcripts as a list.
* ``crowd``: ``cv-valid-dev`` of the first Common Voice (``JarylCJL/JarylChan_ASR``), CC0, 4,076 clips of an unknown number of people who each read a sentence or two into what they had, 5.0 h. Text: ``cv-valid-dev.csv``.
* ``an4``: Carnegie Mellon's AN4 (``adagioNeo/VoiceInterpreter``), "free for use for any purpose", some 80 people who spell, count and give addresses, 0.8 h. Text: ``etc/an4_*.transcription``.
* ``barista``: 619 orders of coffee by more than 50 speakers on their own microphones (``Picovoice/speech-to-intent-benchmark``, Apache 2.0), 1.4 h. Text: none; what `en-emformer` makes of them as served.

Telephone prompts of the Asterisk project are not among them and must not be: its voice is the one that the models are measured on.
"""

import argparse
import csv
import hashlib
import json
import random
import struct
import subprocess
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import soundfile

import text as sentences
from recordings import RATE, resample, trim, words, write, write_set

TABLES = ("", "D", "B", "BJ", "E", "I", "L", "P", "T", "VB")        # drascula.dat's first ten tables, by the letters in front of a clip's number
LANGUAGES = 6


def drascula_texts(path):
    """{clip name: text} of the English lines. A table: u16 count, then for each language u16 size and that many bytes; a string has its own u16 size, itself counted."""
    data = path.read_bytes()
    at, found = data.index(b"THAT'S THE SECOND") - 12, {}
    for prefix in TABLES:
        count, size = struct.unpack_from(">HH", data, at)
        position = at + 6
        for i in range(count):
            length, = struct.unpack_from(">H", data, position)
            found[f"{prefix}{i}.ALS"] = data[position + 2:position + length].split(b"\0")[0].decode("cp437")
            position += length
        at += 2
        for _ in range(LANGUAGES):
            size, = struct.unpack_from(">H", data, at)
            at += 2 + size
    return found


def drascula(folder):
    """Clips of the game: ``folder`` holds ``drascula.dat`` and ``drascula/en``."""
    for name, sentence in sorted(drascula_texts(folder / "drascula.dat").items()):
        path, text = folder / "drascula/en" / name, words(sentence)
        if text and path.exists():
            samples = (np.fromfile(path, np.uint8).astype(np.float32) - 128) / 128
            yield resample(samples - samples.mean(), 11_025), text


def ljspeech(folder, lists):
    """Clips of LJSpeech that a folder holds, with the texts of ``id|text`` lists."""
    texts = {}
    for path in lists:
        for line in path.read_text(encoding="utf-8").splitlines():
            name, sentence = line.split("|")[0], line.split("|")[-1]
            texts[name.split("/")[-1].removesuffix(".wav")] = sentence
    for path in sorted(folder.rglob("LJ*.wav")):
        text = words(texts.get(path.stem, "").replace("(", ",").replace(")", ",").replace("[", ",").replace("]", ",")) if path.stem in texts else None
        if text:
            samples, rate = soundfile.read(path, dtype="float32")
            yield resample(samples, rate), text


def digits(folder, seed=1):
    """Runs of spoken digits of one speaker; files are ``DIGIT_SPEAKER_NUMBER.wav``."""
    clips, rng = defaultdict(list), random.Random(seed)
    for path in sorted(folder.rglob("*_*_*.wav")):
        digit, speaker, _ = path.stem.split("_")
        clips[speaker].append((int(digit), path))
    for speaker in sorted(clips):
        rng.shuffle(clips[speaker])
        while clips[speaker]:
            parts, spoken = [], []
            for digit, path in [clips[speaker].pop() for _ in range(min(rng.randint(3, 7), len(clips[speaker])))]:
                samples, rate = soundfile.read(path, dtype="float32")
                parts += [trim(resample(samples, rate)), np.zeros(int(rng.uniform(0.05, 0.25) * RATE), np.float32)]
                spoken.append(sentences.UNITS[digit])
            yield np.concatenate(parts[:-1]), " ".join(spoken)


def speechocean(folder):
    """Sentences of ``train/text`` and ``test/text`` (name, words) with their recordings."""
    texts = dict(line.split(None, 1) for part in ("train", "test") for line in (folder / part / "text").read_text().splitlines())
    for path in sorted(path for path in (folder / "WAVE").rglob("*") if path.suffix.lower() == ".wav"):
        text = words(texts.get(path.stem, "0"))
        if text:
            samples, rate = soundfile.read(path, dtype="float32")
            yield resample(samples - samples.mean(), rate), text


def heard(path, known):
    """The first channel of a clip at 16 kHz; None where it cannot be read, is in ``known`` already, or is too quiet or too even to be speech."""
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError:
        return None
    samples = samples[:, 0]
    name = hashlib.md5((samples * 32767).astype("<i2").tobytes()).digest()
    if len(samples) < 0.3 * rate or name in known:
        return None
    known.add(name)
    samples = resample(samples - samples.mean(), rate)
    parts = samples[:len(samples) // (RATE // 50) * (RATE // 50)].reshape(-1, RATE // 50)
    loud, quiet = np.percentile(10 * np.log10(np.square(parts).mean(1) + 1e-10), (95, 10))
    return samples if loud > -50 and loud - quiet > 12 else None


def spoken(clips):
    """(samples, text) of (path, text or None), each recording once."""
    known = set()
    for path, text in clips:
        samples = heard(path, known) if text else None
        if samples is not None:
            yield samples, text


def voxforge(folder):
    """Clips of VoxForge's sessions, each a folder with ``etc/PROMPTS`` and ``wav``."""
    for prompts in sorted(folder.rglob("etc/PROMPTS")):
        lines = (line.split(None, 1) for line in prompts.read_text(encoding="utf-8", errors="replace").splitlines())
        texts = {line[0].split("/")[-1]: line[1] for line in lines if len(line) == 2}
        for path in sorted((prompts.parent.parent / "wav").glob("*.wav")):
            yield path, words(texts.get(path.stem, "0"))


def cathy(folder):
    """Clips that have their text beside them."""
    for path in sorted((folder / "data").glob("*.wav")):
        text = path.with_suffix(".txt")
        yield path, words(text.read_text(errors="replace").strip()) if text.exists() else None


def accepted(votes):
    """Whether at most a third of the voters were against."""
    return int(votes["down_votes"] or 0) * 2 <= int(votes["up_votes"] or 0)


def commonvoice(folders):
    """Validated clips that few were against."""
    for table in sorted(path for folder in folders for path in folder.rglob("validated.tsv")):
        clips = next(place for place in (table.parent / "clips", table.parent / "validated_clips") if place.exists())
        for row in csv.DictReader(open(table, encoding="utf-8"), delimiter="\t"):
            sentence = row["sentence"].replace("\u201c", '"').replace("\u201d", '"').replace("(", ",").replace(")", ",")
            yield clips / row["path"], words(sentence) if accepted(row) else None


def crowd(folder):
    """Clips of the first Common Voice, which has a table of another form."""
    for table in sorted(folder.rglob("cv-valid-*.csv")):
        for row in csv.DictReader(open(table, encoding="utf-8")):
            yield table.parent / row["filename"], words(row["text"]) if accepted(row) else None


def librispeech(folders, lists):
    """Utterances with the texts of ``*.trans.txt`` and of ``id<tab>text`` lists."""
    tables = [path for folder in folders for path in folder.rglob("*.trans.txt")]
    texts = dict(line.split(None, 1) for path in [*tables, *lists] for line in path.read_text().splitlines() if len(line.split(None, 1)) == 2)
    for path in sorted(path for folder in folders for path in folder.rglob("*.flac")):
        yield path, words(texts.get(path.stem, "0"))


def an4(folder):
    """Utterances of ``<s> WORDS </s> (id)`` lists."""
    texts = {}
    for table in folder.rglob("an4_*.transcription"):
        for line in table.read_text().splitlines():
            text, _, name = line.rpartition("(")
            texts[name.strip(" )")] = text.replace("<s>", "").replace("</s>", "").strip()
    for path in sorted(folder.rglob("*.sph")):
        yield path, words(texts.get(path.stem, "0"))


def barista(folder, program):
    """Orders of coffee, with what ``program`` (``waxwing``) hears in them."""
    known = set()
    clips = [trim(samples) for path in sorted((folder / "data/speech").rglob("*.wav")) if (samples := heard(path, known)) is not None]
    with tempfile.TemporaryDirectory() as place:
        paths = [Path(place) / f"{i:04}.wav" for i in range(len(clips))]
        for path, samples in zip(paths, clips):
            soundfile.write(path, samples, RATE)
        lines = subprocess.run([program, "transcribe", "--format", "json", *paths], check=True, capture_output=True, text=True).stdout.splitlines()
    for samples, line in zip(clips, filter(str.strip, lines), strict=True):
        text = words(json.loads(line)["text"])
        if text:
            yield samples, text


def kept(clips, grams, slowest=1.5):
    """Trimmed clips of a possible length and pace whose text shares no run of words with a test set."""
    for samples, text in clips:
        samples = trim(samples)
        if 0.3 * RATE < len(samples) < 16 * RATE and len(text) / 30 < len(samples) / RATE < slowest + len(text) / 5 and not sentences.overlaps(text, grams):
            yield samples, text


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the shards")
    parser.add_argument("--drascula", type=Path, help="folder usr/share/scummvm of the two unpacked packages")
    parser.add_argument("--ljspeech", type=Path, help="folder with LJSpeech's clips, anywhere below")
    parser.add_argument("--lists", type=Path, nargs="*", default=[], help="LJSpeech's texts, id|text")
    parser.add_argument("--digits", type=Path, help="folder of the Free Spoken Digit Dataset")
    parser.add_argument("--speechocean", type=Path, help="folder of speechocean762")
    parser.add_argument("--voxforge", type=Path, help="folder with VoxForge's sessions, anywhere below")
    parser.add_argument("--cathy", type=Path, help="folder of dataset-voice-cathy")
    parser.add_argument("--librispeech", type=Path, nargs="*", default=[], help="folders with LibriSpeech's utterances, anywhere below")
    parser.add_argument("--librispeech-lists", type=Path, nargs="*", default=[], help="texts of those without *.trans.txt beside them: id, text")
    parser.add_argument("--crowd", type=Path, help="folder with cv-valid-*.csv and its clips, anywhere below")
    parser.add_argument("--an4", type=Path, help="folder of AN4")
    parser.add_argument("--commonvoice", type=Path, nargs="*", default=[], help="folders with validated.tsv and clips, anywhere below")
    parser.add_argument("--measured", type=Path, help="folder for a test set of further clips of Common Voice")
    parser.add_argument("--measured-clips", type=Path, nargs="*", default=[], help="folders with validated.tsv and clips for it")
    parser.add_argument("--barista", type=Path, help="folder of speech-to-intent-benchmark")
    parser.add_argument("--waxwing", type=Path, help="the program that writes down what is said there")
    parser.add_argument("--forbidden", type=Path, nargs="*", default=[], help="tab-separated transcripts of test sets: lines that overlap are left out")
    options = parser.parse_args()
    grams = sentences.runs_of_words(line.split("\t")[-1] for path in options.forbidden for line in path.read_text().splitlines())
    if options.drascula:
        write(kept(drascula(options.drascula), grams), options.out, "drascula")
    if options.ljspeech:
        write(kept(ljspeech(options.ljspeech, options.lists), grams), options.out, "ljspeech")
    if options.digits:
        write(kept(digits(options.digits), grams), options.out, "digits")
    if options.speechocean:
        write(kept(speechocean(options.speechocean), grams, slowest=3), options.out, "speechocean")
    if options.voxforge:
        write(kept(spoken(voxforge(options.voxforge)), grams, slowest=3), options.out, "voxforge")
    if options.cathy:
        write(kept(spoken(cathy(options.cathy)), grams), options.out, "cathy")
    if options.measured:
        clips = ((samples, text) for samples, text in spoken(commonvoice(options.measured_clips)) if len(text.split()) > 2)
        write_set(((f"{i:04}", samples, text) for i, (samples, text) in enumerate(clips)), options.measured)
    if options.librispeech:
        write(kept(spoken(librispeech(options.librispeech, options.librispeech_lists)), grams), options.out, "librispeech")
    if options.crowd:
        write(kept(spoken(crowd(options.crowd)), grams, slowest=3), options.out, "crowd")
    if options.an4:
        write(kept(spoken(an4(options.an4)), grams, slowest=3), options.out, "an4")
    if options.commonvoice:
        write(kept(spoken(commonvoice(options.commonvoice)), grams, slowest=3), options.out, "commonvoice")
    if options.barista:
        write(kept(barista(options.barista, options.waxwing), grams, slowest=3), options.out, "barista")
