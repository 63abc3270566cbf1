"""What the small model is taught from: recordings with their words, and what the larger model says of every frame of them.

``python lessons.py --speech FOLDER --teacher DIRECTORY`` lets the larger model hear finished shards once, undisturbed, as it is served, and writes two files beside each,
a frame for 40 ms, utterances back to back:

* ``shard-N.states``, (frames, 5, 384) f16: what stands behind each of its layers, without what the positions that were added in front make of it, the mean of two frames of 20 ms;
* ``shard-N.posteriors``, (frames) of `POSTERIORS`: the most probable word pieces, of two frames each piece's higher probability.

The pupil hears the same utterance in ever new disguises and is asked for the same frames; and now and then noise alone, in which there is nothing to write.
"""

import argparse
import fcntl
import json
from pathlib import Path

import numpy as np
import torch
from scipy.signal import resample_poly
from torch.nn import functional as F

import evaluate
from augmentation import RATE, augment, mask, noise, pause, vocal_tract
from data import RATIOS, SYNTHESISED, Batches
from features import HOP, LOG_FLOOR, MIDDLES, features
from fsmn import HOP_SAMPLES, STAGES, STRIDE, DeepFsmn, stacked
from model import DIM
from phones import Phones
from progress import Progress

MOST = 8                                                       # word pieces kept of a frame
POSTERIORS = np.dtype([("ids", "u1", MOST), ("probabilities", "<f2", MOST)])
STATES, LIKELY = ".states", ".posteriors"
TEACHERS = {STATES: (np.float16, (STAGES, DIM)), LIKELY: (POSTERIORS, ())}
WORDLESS = 0.03                                                # share of items without speech
LONGEST = 16 * RATE                                            # samples of an utterance
AHEAD = HOP                                                    # samples of silence in front of what the teacher hears: its frames of 40 ms are centred on the pupil's


def frames_of(samples):
    """Teacher's frames of so many samples."""
    return -(-samples // HOP_SAMPLES)


def utterances(path):
    """Samples of all utterances of a shard, f32."""
    audio = np.memmap(path.with_suffix(".pcm"), "<i2", "r")
    for first, count, _, _ in json.loads(path.read_text()):
        yield torch.from_numpy(audio[first:first + count].astype(np.float32) / 32768)


def run(model, samples, offset=0):
    """((frames, 5, 384) states, (frames, 2, classes) log-probabilities) of an utterance that begins at a position."""
    count = frames_of(len(samples))
    x, visible = model.enter(model.spectrum(F.pad(samples, (AHEAD, 2 * HOP_SAMPLES)), LOG_FLOOR)[None], offset)
    states = [model.utterance(behind)[0, :2 * count].unflatten(0, (-1, 2)) for behind in model.behind(x, visible)]
    return torch.stack(states, 1).mean(2), model.heads["ctc"](model.layer_norm(states[-1])).log_softmax(-1)


def drift(model, speech, passages=12, offsets=6):
    """(frames, 5, 384): what being where it is in the recording adds to the teacher's states, of which the pupil, who has no positions, can know nothing. Without it two offsets give states that
    differ by 1 % of their variance, with it by 60, 51, 28, 4 and 3 % behind the five layers: the difference between an offset of 0 and the mean of others, of passages of the first shard."""
    audio = np.memmap(min(speech.glob("shard-*.pcm")), "<i2", "r")
    draw, found, passages = np.random.default_rng(0), 0, min(passages, len(audio) // LONGEST)
    for passage in range(passages):
        samples = torch.from_numpy(audio[passage * LONGEST:(passage + 1) * LONGEST].astype(np.float32) / 32768)
        elsewhere = sum(run(model, samples, int(offset))[0] for offset in draw.integers(len(model.positions), size=offsets)) / offsets
        found = found + (run(model, samples)[0] - elsewhere) / passages
    return found


def hear(model, samples, positions):
    """((frames, 5, 384) f16, (frames) of POSTERIORS) of an utterance; ``positions`` by `drift`."""
    states, log_probs = run(model, samples)
    probabilities = log_probs.exp().amax(1)
    top = (probabilities / probabilities.sum(1, keepdim=True)).topk(MOST, 1)
    made = np.zeros(len(states), POSTERIORS)
    made["ids"], made["probabilities"] = top.indices.numpy(), top.values.numpy()
    return (states - positions[:len(states)]).half().numpy(), made


@torch.no_grad()
def teach(model, speech, hours):
    """Writes what the teacher hears in finished shards beside those that have no such files, recorded speech first, until they have it for ``hours``. Several programs may share the work."""
    bar, heard, positions = Progress("teacher", hours, "h"), 0.0, None
    for path in sorted(speech.glob("shard-*.json"), key=lambda path: (path.stem[6:7].isdigit(), path.stem)):
        if heard >= hours:
            return
        files = [path.with_suffix(suffix) for suffix in TEACHERS]
        with open(path) as shard:
            try:
                fcntl.flock(shard, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue                                       # another program hears this one
            if not files[-1].exists():
                positions = drift(model, speech) if positions is None else positions
                for file, frames in zip(files, zip(*(hear(model, samples, positions) for samples in utterances(path)))):
                    np.concatenate(frames).tofile(file.with_suffix(".tmp"))
                    file.with_suffix(".tmp").rename(file)
        heard += path.with_suffix(".pcm").stat().st_size / 2 / RATE / 3600
        bar.at(heard)


def spread(speech):
    """Spread (5, 384) f32 of the teacher's states, from the first shard that it has heard; None before that."""
    for path in sorted(speech.glob("shard-*.states")):
        return torch.from_numpy(np.fromfile(path, np.float16, 20_000 * STAGES * DIM)).float().unflatten(0, (-1, STAGES, DIM)).std(0)
    return None


class Lessons(Batches):
    """Batches of stacked features, targets, and the teacher's frames where it has heard the utterance."""

    places = None

    def __init__(self, *arguments, follow=tuple(TEACHERS), **named):
        super().__init__(*arguments, **named)
        self.phones = Phones()
        self.follow = follow                                   # of what the teacher said: the suffixes of the files that are read

    def known(self, shards, item):
        """What the teachers said of an utterance: {suffix: frames}."""
        number, first = item[:2]
        self.places = self.places or {}
        found = {}
        for suffix in self.follow:
            kind, width = TEACHERS[suffix]
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

    @staticmethod
    def wordless(rng):
        """2 to 8 s of noise between full scale and nothing; zeros, now and then."""
        samples = noise(rng, int(RATE * rng.uniform(2, 8)), lambda length: rng.standard_normal(length))
        gain = 0 if rng.random() < 0.1 else 10 ** (-rng.uniform(1, 90) / 20) / np.abs(samples).max()
        return (np.round(samples * gain * 32767) / 32768).astype(np.float32)

    def utterance(self, rng, shards, queue):
        """One item, or two or three joined by a pause: (samples, text, [(teacher, first output frame, frames)]); or a wordless one."""
        if rng.random() < WORDLESS:
            return self.wordless(rng), "", []
        parts, texts, taught, total = [], [], [], 0
        for _ in range(1 if rng.random() > self.joined else rng.integers(2, 4)):
            item = queue[-1]
            samples, up, down = shards.read(item), 1, 1
            if item[4] not in SYNTHESISED and rng.random() < 0.7:
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
                row[:] = torch.from_numpy(vocal_tract(rng, row.numpy(), MIDDLES))
            if rng.random() < self.masks:
                mask(rng, row[: len(samples) // HOP].numpy())
        told = {suffix: np.zeros((len(batch), count, *TEACHERS[suffix][1]), TEACHERS[suffix][0]) for suffix in self.follow}
        known = {suffix: torch.zeros(len(batch), count, dtype=torch.bool) for suffix in self.follow}
        for i, (_, _, taught) in enumerate(batch):
            for suffix, first, frames in taught:
                frames = frames[: count - first]
                told[suffix][i, first:first + len(frames)] = frames
                known[suffix][i, first:first + len(frames)] = True
        ids = [torch.tensor(self.tokens.encode(text), dtype=torch.long) for _, text, _ in batch]
        lengths = torch.tensor([min(count, len(samples) // HOP_SAMPLES + 2) for samples, _, _ in batch])
        made = {"features": stacked(spectrum), "lengths": lengths, "targets": (torch.cat(ids), torch.tensor([len(row) for row in ids])), "seconds": sum(len(samples) for samples, _, _ in batch) / RATE}
        made |= self.phones.targets([text for _, text, _ in batch])
        if STATES in told:
            made |= {"states": torch.from_numpy(told[STATES]), "states_known": known[STATES]}
        if LIKELY in told:
            made |= {"posterior_known": known[LIKELY], "posterior_ids": torch.from_numpy(told[LIKELY]["ids"].astype(np.int64)),
                     "posteriors": torch.from_numpy(told[LIKELY]["probabilities"].astype(np.float32))}
        return made


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", type=Path, required=True, help="folder of shards")
    parser.add_argument("--teacher", type=Path, required=True, help="model directory of the larger model")
    parser.add_argument("--hours", type=float, default=20, help="of speech that it hears at most")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, _ = evaluate.load(options.teacher)
    model.geometry = (2 * model.geometry[0], *model.geometry[1:])    # fewer copies of the right context; the rest of the context is what it was taught with
    teach(model, options.speech, options.hours)


if __name__ == "__main__":
    main()
