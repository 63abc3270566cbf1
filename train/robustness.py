"""How the served model behaves where recognisers go wrong: drives the ``waxwing`` program and prints a Markdown table.

``robustness.py WAXWING MODEL LIST [--out TABLE.md]``; ``LIST`` is a test set (tab-separated: file, words). Speech is made worse in known ways and its word
error rate, with that model as it is served by default, is given with a bootstrap interval over recordings; where nobody speaks, the words that come out all the same
are counted. The best path's transcripts by the model directory MODEL get compared with what the training program computes, too.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import torch
from scipy.signal import fftconvolve, lfilter, resample_poly

import evaluate
from augmentation import telephone
from features import RATE


def level(samples):
    return np.sqrt(np.mean(np.square(samples)) + 1e-12)


def pink(rng, length):
    """Noise that falls by about 3 dB an octave, of unit power."""
    sound = lfilter([0.049922, -0.095993, 0.050613, -0.004409], [1, -2.494956, 2.017266, -0.522190], rng.standard_normal(length))
    return (sound / level(sound)).astype(np.float32)


def music(rng, length):
    """Plucked chords over a bass and a beat: four voices with harmonics that decay, of unit power."""
    sound, time = np.zeros(length + RATE), np.arange(RATE) / RATE
    for start in range(0, length, RATE // 2):
        root = 110 * 2 ** (rng.choice((0, 3, 5, 7, 10)) / 12)
        for interval in (0, 4, 7, 12):
            tone = root * 2 ** (interval / 12)
            sound[start:start + RATE] += sum(np.sin(2 * np.pi * k * tone * time) / k for k in range(1, 7)) * np.exp(-3 * time)
        sound[start:start + RATE // 20] += rng.standard_normal(RATE // 20) * np.linspace(2, 0, RATE // 20)
    return (sound[:length] / level(sound)).astype(np.float32)


def room(rng, samples):
    """Half a second of reverberation, as loud as the direct sound."""
    tail = rng.standard_normal(RATE // 2) * np.exp(-6.9 * np.arange(RATE // 2) / (RATE // 2))
    tail[:80] = 0
    tail /= np.sqrt(np.sum(np.square(tail)))
    tail[0] = 1
    return fftconvolve(samples, tail)[: len(samples) + RATE // 4].astype(np.float32)


def spoken(samples):
    """Without the silence at both ends, to the sample: the speaker starts at once."""
    loud = np.flatnonzero(np.abs(samples) > 0.02 * np.abs(samples).max())
    return samples[loud[0]:loud[-1] + 1]


def without_pause(clips, seconds):
    """Recordings cut to the speech and put end to end, until the length is reached: [(samples, words)] with one item."""
    parts, texts, total, i = [], [], 0, 0
    while total < seconds * RATE:
        samples, text = clips[i % len(clips)]
        parts.append(spoken(samples))
        texts.append(text)
        total, i = total + len(parts[-1]), i + 1
    return [(np.concatenate(parts), " ".join(texts))]


def conditions(clips, hour):
    """(name, rate, [(samples, words)]) of everything to try."""
    rng = np.random.default_rng(7)

    def each(change):
        return [(change(samples), text) for samples, text in clips]

    def noisy(decibels):
        return each(lambda samples: samples + pink(rng, len(samples)) * level(samples) * 10 ** (-decibels / 20))

    def at_8_khz(samples):
        return resample_poly(telephone(rng, samples), 1, 2).astype(np.float32)

    minute = 60 * RATE
    yield "as recorded", RATE, clips
    yield "from the first sample, until the last", RATE, each(spoken)
    yield "8 kHz, 300–3,400 Hz, often µ-law", 8000, each(at_8_khz)
    yield "very quiet: 40 dB down", RATE, each(lambda samples: samples * 0.01)
    yield "clipped: 20 dB too loud", RATE, each(lambda samples: np.clip(samples * 10 * 0.9 / np.abs(samples).max(), -0.9, 0.9))
    yield "pink noise, 20 dB below", RATE, noisy(20)
    yield "pink noise, 10 dB below", RATE, noisy(10)
    yield "music, 10 dB below", RATE, each(lambda samples: samples + music(rng, len(samples)) * level(samples) * 10 ** -0.5)
    yield "room, half a second", RATE, each(lambda samples: room(rng, samples))
    yield "ten minutes without a pause", RATE, without_pause(clips, 600)
    yield f"silence: {hour:g} minutes of zeros", RATE, [(np.zeros(int(hour * minute), np.float32), "")]
    yield "the last bit: ten minutes of ±1", RATE, [((rng.integers(-1, 2, 10 * minute) / 32768).astype(np.float32), "")]
    yield "pink noise, ten minutes at −40 dB", RATE, [(0.01 * pink(rng, 10 * minute), "")]
    yield "white noise, ten minutes at −20 dB", RATE, [(0.1 * rng.standard_normal(10 * minute).astype(np.float32), "")]
    yield "music, ten minutes", RATE, [(0.1 * music(rng, 10 * minute), "")]
    yield "hum of 50 Hz, ten minutes", RATE, [((0.1 * np.sin(2 * np.pi * 50 * np.arange(10 * minute) / RATE)).astype(np.float32), "")]


def transcribe(program, rate, clips, *settings):
    """What the program writes for each of the recordings."""
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for i, (samples, _) in enumerate(clips):
            paths.append(Path(folder) / f"{i:04d}.flac")
            soundfile.write(paths[-1], np.clip(samples, -1, 1 - 1 / 32768), rate, subtype="PCM_16")
        out = Path(folder) / "out"
        out.mkdir()
        subprocess.run([program, "transcribe", *settings, "-f", "txt", "-o", str(out), *map(str, paths)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        return [" ".join((out / f"{path.stem}.txt").read_text().split()) for path in paths]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program", help="the waxwing program")
    parser.add_argument("model", type=Path, help="a model directory")
    parser.add_argument("list", type=Path, help="test set")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    parser.add_argument("--silence", type=float, default=60, help="minutes of silence")
    options = parser.parse_args()
    torch.set_num_threads(1)
    # A directory that has no language model of its own is a built-in model's, whose language model is in the program.
    served = str(options.model) if (options.model / "language_model.bin").exists() else options.model.name
    lines = ["| input | words spoken | WER, % | interval | words invented |", "|---|---|---|---|---|"]
    for name, rate, clips in conditions(evaluate.read_set(options.list), options.silence):
        texts = transcribe(options.program, rate, clips, "--model", served)
        if name == "as recorded":
            judge = evaluate.load(options.model)
            plain = transcribe(options.program, rate, clips, "--model", options.model, "--beam-width", "1")
            same = [row[4] == heard for row, heard in zip(evaluate.score(*judge, clips)["ctc"], plain)]
            print(f"{sum(same)} of {len(same)} transcripts are the same, letter by letter, as those of the training program's forward pass", flush=True)
        if any(text for _, text in clips):
            rows = [(evaluate.errors(text.split(), heard.split()), len(text.split()), 0, 1) for (_, text), heard in zip(clips, texts)]
            result = evaluate.summary(rows)
            interval = "–".join(str(x) for x in result["interval"]) if len(clips) > 1 else "one recording"
            lines.append(f"| {name} | {result['words']:,} | {result['wer']} | {interval} | |")
        else:
            heard = " ".join(texts).split()
            lines.append(f"| {name} | 0 | | | {len(heard)}{': ' + ' '.join(heard[:6]) if heard else ''} |")
        print(lines[-1], flush=True)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
