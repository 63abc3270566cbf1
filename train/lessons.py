"""What the small model is taught from: recordings with their words, and what Whisper's encoder says of every frame of them.

``python lessons.py --speech FOLDER --whisper FILE`` lets the teacher hear every finished shard once, undisturbed, whole utterances with half a second of
silence behind them, as the second listener does, and writes ``shard-N.teacher`` beside it: (frames, 384) f16, a frame for 40 ms, utterances back to back. The
pupil hears the same utterance in ever new disguises and is asked for the same frames.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from scipy.signal import resample_poly

from augmentation import RATE, augment, mask, pause
from data import RATIOS, RECORDED, Batches, Shards
from features import HOP, features
from fsmn import HOP_SAMPLES, STRIDE, DeepFsmn, stacked
from model import DIM, Model, load_whisper
from progress import Progress

SILENCE_FRAMES = 25                                            # behind an utterance, of 20 ms


def frames_of(samples):
    """Teacher's frames of so many samples."""
    return -(-samples // HOP_SAMPLES)


@torch.no_grad()
def teach(speech, whisper, hours):
    """Writes the teacher's frames of finished shards that have none, those of recorded speech first, until it has heard ``hours``."""
    torch.set_num_threads(1)
    model, heard = load_whisper(Model(4), whisper).eval(), 0.0
    bar = Progress("teacher", hours, "h")
    for path in sorted(speech.glob("shard-*.json"), key=lambda path: (path.stem[6:7].isdigit(), path.stem)):
        audio = np.memmap(path.with_suffix(".pcm"), "<i2", "r")
        if heard >= hours:
            return
        if not path.with_suffix(".teacher").exists():
            made = []
            for first, count, _, _ in json.loads(path.read_text()):
                samples = torch.from_numpy(audio[first:first + count].astype(np.float32) / 32768)
                frames = 2 * frames_of(count) + SILENCE_FRAMES
                encoded = model.layer_norm(model.encode(features(samples[None], 2 * frames + 1), 0, "full"))[0, :2 * frames_of(count)]
                made.append(encoded.unflatten(0, (-1, 2)).mean(1).half().numpy())
            np.concatenate(made).tofile(path.with_suffix(".teaching"))
            path.with_suffix(".teaching").rename(path.with_suffix(".teacher"))
        heard += len(audio) / RATE / 3600
        bar.at(heard)


def scale(speech):
    """Mean and spread (384) f32 of the teacher's frames, from the first shard that it has heard; None before that."""
    for path in sorted(speech.glob("shard-*.teacher")):
        frames = torch.from_numpy(np.fromfile(path, np.float16, 20_000 * DIM)).float().unflatten(0, (-1, DIM))
        return frames.mean(0), frames.std(0)
    return None


class Lessons(Batches):
    """Batches of stacked features, targets, and the teacher's frames where it has heard the utterance."""

    taught, places = None, None

    def frames(self, shards, number):
        """The teacher's frames of a shard, or None if it has not heard it when first asked for; where each utterance begins in them."""
        self.places = self.places or {}
        if number not in self.places:
            path = shards.names[number]
            file = (shards.folder / path).with_suffix(".teacher")
            if not file.exists():
                return None, None
            starts, at = {}, 0
            for first, count, _, _ in json.loads((shards.folder / path).read_text()):
                starts[first], at = at, at + frames_of(count)
            self.places[number] = np.memmap(file, np.float16, "r").reshape(-1, DIM), starts
        return self.places[number]

    def utterance(self, rng, shards, queue):
        """One item, or two or three joined by a pause: (samples, text, [(first output frame, teacher's frames)])."""
        parts, texts, taught, total = [], [], [], 0
        for _ in range(1 if rng.random() > self.joined else rng.integers(2, 4)):
            number, first, count, text, source = queue[-1]
            samples, up, down = shards.read(queue[-1]), 1, 1
            if source in RECORDED and rng.random() < 0.7:
                up, down = RATIOS[rng.integers(len(RATIOS))]
                samples = resample_poly(samples, up, down).astype(np.float32)
            if parts and total + len(samples) > self.longest * RATE:
                break
            queue.pop()
            texts.append(text)
            if parts:
                parts.append(np.zeros(int(RATE * rng.uniform(0.05, 1.0)) // HOP_SAMPLES * HOP_SAMPLES, np.float32))
                total += len(parts[-1])
            known, starts = self.frames(shards, number)
            if known is not None:
                frames = known[starts[first]:starts[first] + frames_of(count)]
                at = np.minimum(np.arange(frames_of(len(samples))) * down // up, len(frames) - 1)
                taught.append((total // HOP_SAMPLES, frames[at]))
            parts.append(np.pad(samples * rng.uniform(0.5, 1), (0, -len(samples) % HOP_SAMPLES)))
            total = sum(map(len, parts))
            if len(queue) == 0:
                break

        def babble(length):
            return np.roll(np.resize(shards.read(shards.items[rng.integers(len(shards.items))]), length), rng.integers(length))

        head = pause(rng) // HOP_SAMPLES * HOP_SAMPLES
        taught = [(first + head // HOP_SAMPLES, frames) for first, frames in taught]
        return augment(rng, np.concatenate(parts), babble, self.strength, head), " ".join(texts), taught

    def collate(self, rng, batch):
        lookahead = DeepFsmn.geometry[1]
        count = max(frames_of(len(samples)) for samples, _, _ in batch)
        spectrum = torch.stack([features(torch.from_numpy(samples), STRIDE * (count + lookahead)) for samples, _, _ in batch])
        for row, (samples, _, _) in zip(spectrum, batch):
            if rng.random() < self.masks:
                mask(rng, row[: len(samples) // HOP].numpy())
        teacher, known = torch.zeros(len(batch), count, DIM, dtype=torch.float16), torch.zeros(len(batch), count, dtype=torch.bool)
        for i, (_, _, taught) in enumerate(batch):
            for first, frames in taught:
                frames = frames[: count - first]
                teacher[i, first:first + len(frames)] = torch.from_numpy(np.array(frames))
                known[i, first:first + len(frames)] = True
        ids = [torch.tensor(self.tokens.encode(text)) for _, text, _ in batch]
        lengths = torch.tensor([min(count, len(samples) // HOP_SAMPLES + 2) for samples, _, _ in batch])
        return {"features": stacked(spectrum), "lengths": lengths, "targets": (torch.cat(ids), torch.tensor([len(row) for row in ids])), "teacher": teacher, "known": known,
                "seconds": sum(len(samples) for samples, _, _ in batch) / RATE}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--speech", type=Path, required=True, help="folder of shards")
    parser.add_argument("--whisper", type=Path, required=True, help="Whisper tiny.en as a CTranslate2 file")
    parser.add_argument("--hours", type=float, default=20, help="of speech that it hears at most")
    options = parser.parse_args()
    teach(options.speech, options.whisper, options.hours)
