"""Recorded English speech with exact texts from one Debian package and three public repositories, as shards beside those of ``recordings.py``.

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
"""

import argparse
import random
import struct
from collections import defaultdict
from pathlib import Path

import numpy as np
import soundfile

import text as sentences
from recordings import RATE, resample, trim, words, write

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
