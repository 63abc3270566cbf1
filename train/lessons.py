"""What the small model is taught from: recordings with their words, and what the first model says of every frame of them.

``python lessons.py --speech FOLDER --whisper FILE --first DIRECTORY --pieces MODEL`` lets the teachers hear finished shards once, undisturbed, whole utterances, and writes
two files beside each, a frame for 40 ms, utterances back to back:

* ``shard-N.teacher``, (frames, 384) f16: what Whisper's encoder, with which the second listener hears, says of the whole utterance and half a second of silence behind it;
* ``shard-N.posteriors``, (frames) of `POSTERIORS`: the most probable word pieces by the streaming encoder, of two frames of 20 ms each piece's higher probability.

The pupil hears the same utterance in ever new disguises and is asked for the same frames.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from scipy.signal import resample_poly

import evaluate
from augmentation import RATE, augment, mask, pause
from data import RATIOS, RECORDED, Batches, Tokens
from features import HOP, LOG_FLOOR, features
from fsmn import HOP_SAMPLES, STRIDE, DeepFsmn, stacked
from model import DIM, Model, load_whisper
from progress import Progress

MOST = 8                                                       # word pieces kept of a frame
POSTERIORS = np.dtype([("ids", "u1", MOST), ("probabilities", "<f2", MOST)])
WHOLE, LIKELY = ".teacher", ".posteriors"
TEACHERS = {WHOLE: (np.float16, (DIM,)), LIKELY: (POSTERIORS, ())}
SILENCE_FRAMES = 25                                            # behind an utterance, of 20 ms


def frames_of(samples):
    """Teacher's frames of so many samples."""
    return -(-samples // HOP_SAMPLES)


def utterances(path):
    """Samples of all utterances of a shard, f32."""
    audio = np.memmap(path.with_suffix(".pcm"), "<i2", "r")
    for first, count, _, _ in json.loads(path.read_text()):
        yield torch.from_numpy(audio[first:first + count].astype(np.float32) / 32768)


def whole(model, samples):
    """(frames, 384) f16 of an utterance by Whisper's encoder."""
    count = 2 * frames_of(len(samples))
    spectrum = features(samples[None], 2 * (count + SILENCE_FRAMES) + 1)
    return model.layer_norm(model.encode(spectrum, 0, "full"))[0, :count].unflatten(0, (-1, 2)).mean(1).half().numpy()


def posteriors(model, places, samples):
    """(frames) of POSTERIORS by the streaming encoder; ``places`` are its classes in the pupil's vocabulary."""
    count = frames_of(len(samples))
    probabilities = model(model.spectrum(samples, LOG_FLOOR)[None])["ctc"][0, :2 * count].exp().unflatten(0, (-1, 2)).amax(1)
    probabilities /= probabilities.sum(1, keepdim=True)
    top = probabilities.topk(MOST, 1)
    made = np.zeros(count, POSTERIORS)
    made["ids"], made["probabilities"] = places[top.indices].numpy(), top.values.numpy()
    return made


@torch.no_grad()
def teach(speech, suffix, hear, hours):
    """Writes what ``hear`` says of finished shards beside those that have no such file, recorded speech first, until they have it for ``hours``."""
    torch.set_num_threads(1)
    bar, heard = Progress(suffix[1:], hours, "h"), 0.0
    for path in sorted(speech.glob("shard-*.json"), key=lambda path: (path.stem[6:7].isdigit(), path.stem)):
        if heard >= hours:
            return
        if not path.with_suffix(suffix).exists():
            np.concatenate([hear(samples) for samples in utterances(path)]).tofile(path.with_suffix(suffix + ".tmp"))
            path.with_suffix(suffix + ".tmp").rename(path.with_suffix(suffix))
        heard += path.with_suffix(".pcm").stat().st_size / 2 / RATE / 3600
        bar.at(heard)


def scale(speech):
    """Mean and spread (384) f32 of the teacher's frames, from the first shard that it has heard; None before that."""
    for path in sorted(speech.glob("shard-*.teacher")):
        frames = torch.from_numpy(np.fromfile(path, np.float16, 20_000 * DIM)).float().unflatten(0, (-1, DIM))
        return frames.mean(0), frames.std(0)
    return None


class Lessons(Batches):
    """Batches of stacked features, targets, and the teacher's frames where it has heard the utterance."""

    places = None

    def known(self, shards, item):
        """What the teachers said of an utterance: {suffix: frames}."""
        number, first = item[:2]
        self.places = self.places or {}
        found = {}
        for suffix, (kind, width) in TEACHERS.items():
            if (number, suffix) not in self.places:
                path = shards.folder / shards.names[number]
                if not path.with_suffix(suffix).exists():
                    continue
                starts, at = {}, 0
                for begin, count, _, _ in json.loads(path.read_text()):
                    starts[begin], at = (at, at + frames_of(count)), at + frames_of(count)
                self.places[number, suffix] = np.memmap(path.with_suffix(suffix), kind, "r").reshape(at, *width), starts
            frames, starts = self.places[number, suffix]
            found[suffix] = frames[slice(*starts[first])]
        return found

    def utterance(self, rng, shards, queue):
        """One item, or two or three joined by a pause: (samples, text, [(teacher, first output frame, frames)])."""
        parts, texts, taught, total = [], [], [], 0
        for _ in range(1 if rng.random() > self.joined else rng.integers(2, 4)):
            item = queue[-1]
            samples, up, down = shards.read(item), 1, 1
            if item[4] in RECORDED and rng.random() < 0.7:
                up, down = RATIOS[rng.integers(len(RATIOS))]
                samples = resample_poly(samples, up, down).astype(np.float32)
            if parts and total + len(samples) > self.longest * RATE:
                break
            texts.append(queue.pop()[3])
            if parts:
                parts.append(np.zeros(int(RATE * rng.uniform(0.05, 1.0)) // HOP_SAMPLES * HOP_SAMPLES, np.float32))
                total += len(parts[-1])
            for suffix, frames in self.known(shards, item).items():
                at = np.minimum(np.arange(frames_of(len(samples))) * down // up, len(frames) - 1)
                taught.append((suffix, total // HOP_SAMPLES, frames[at]))
            parts.append(np.pad(samples * rng.uniform(0.5, 1), (0, -len(samples) % HOP_SAMPLES)))
            total = sum(map(len, parts))
            if len(queue) == 0:
                break

        def babble(length):
            return np.roll(np.resize(shards.read(shards.items[rng.integers(len(shards.items))]), length), rng.integers(length))

        head = pause(rng) // HOP_SAMPLES * HOP_SAMPLES
        taught = [(suffix, first + head // HOP_SAMPLES, frames) for suffix, first, frames in taught]
        return augment(rng, np.concatenate(parts), babble, self.strength, head), " ".join(texts), taught

    def collate(self, rng, batch):
        lookahead = DeepFsmn.geometry[1]
        count = max(frames_of(len(samples)) for samples, _, _ in batch)
        spectrum = torch.stack([features(torch.from_numpy(samples), STRIDE * (count + lookahead)) for samples, _, _ in batch])
        for row, (samples, _, _) in zip(spectrum, batch):
            if rng.random() < self.masks:
                mask(rng, row[: len(samples) // HOP].numpy())
        told = {suffix: np.zeros((len(batch), count, *width), kind) for suffix, (kind, width) in TEACHERS.items()}
        known = {suffix: torch.zeros(len(batch), count, dtype=torch.bool) for suffix in TEACHERS}
        for i, (_, _, taught) in enumerate(batch):
            for suffix, first, frames in taught:
                frames = frames[: count - first]
                told[suffix][i, first:first + len(frames)] = frames
                known[suffix][i, first:first + len(frames)] = True
        whole, likely = told.values()
        ids = [torch.tensor(self.tokens.encode(text)) for _, text, _ in batch]
        lengths = torch.tensor([min(count, len(samples) // HOP_SAMPLES + 2) for samples, _, _ in batch])
        return {"features": stacked(spectrum), "lengths": lengths, "targets": (torch.cat(ids), torch.tensor([len(row) for row in ids])),
                "whole": torch.from_numpy(whole), "whole_known": known[WHOLE], "posterior_known": known[LIKELY],
                "posterior_ids": torch.from_numpy(likely["ids"].astype(np.int64)), "posteriors": torch.from_numpy(likely["probabilities"].astype(np.float32)),
                "seconds": sum(len(samples) for samples, _, _ in batch) / RATE}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", type=Path, required=True, help="folder of shards")
    parser.add_argument("--whisper", type=Path, help="Whisper tiny.en as a CTranslate2 file: writes .teacher")
    parser.add_argument("--first", type=Path, help="model directory of the first model: writes .posteriors")
    parser.add_argument("--pieces", type=Path, help="SentencePiece model of the pupil")
    parser.add_argument("--hours", type=float, default=20, help="of speech that they hear at most")
    options = parser.parse_args()
    if options.first:
        model, tokens = evaluate.load(options.first)
        model.geometry = (2 * model.geometry[0], *model.geometry[1:])    # fewer copies of the right context; the rest of the context is what it was taught with
        own = Tokens(options.pieces)
        places = torch.tensor([own.ids[name] for name in tokens["ctc"].names])
        teach(options.speech, LIKELY, lambda samples: posteriors(model, places, samples), options.hours)
    if options.whisper:
        model = load_whisper(Model(4), options.whisper).eval()
        teach(options.speech, WHOLE, lambda samples: whole(model, samples), options.hours)


if __name__ == "__main__":
    main()
