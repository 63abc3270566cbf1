"""Shards of synthetic speech to training batches, made in a worker process beside the training loop."""

import json
from pathlib import Path

import numpy as np
import torch

from scipy.signal import resample_poly

from augmentation import RATE, augment, mask
from features import HOP, features
from model import Model

SYNTHESISED = ("hibari", "festival", "flite", "espeak", "piper")    # sources of synthesis.py; all others are recordings
RATIOS = ((9, 10), (15, 16), (24, 25), (25, 24), (16, 15), (10, 9))


def spoken(path):
    """What CTC's best class of every frame says: equal neighbours are one, blanks (0) none."""
    return [c for i, c in enumerate(path) if c and (i == 0 or c != path[i - 1])]


class BytePairs:
    """Words to pieces by a list of byte-pair pieces, of which earlier ones join first, as SentencePiece does it: for a model directory, which has the list only."""

    def __init__(self, ids):
        self.ids, self.known = ids, {}

    def word(self, word):
        parts = list(word)
        while len(parts) > 1:
            rank, at = min((self.ids.get(left + right, len(self.ids)), i) for i, (left, right) in enumerate(zip(parts, parts[1:])))
            if rank == len(self.ids):
                break
            parts[at:at + 2] = [parts[at] + parts[at + 1]]
        return [self.ids[part] for part in parts]

    def encode(self, text):
        for word in text.split():
            if word not in self.known:
                self.known[word] = self.word("▁" + word)
        return [piece for word in text.split() for piece in self.known[word]]


class Tokens:
    """Classes of a CTC head: ``<blank>`` first, then characters, or the pieces of a SentencePiece model or of a model's ``tokens.txt``. Words begin with ``▁``."""

    def __init__(self, pieces=None):
        self.processor = None
        self.names = ["<blank>", "▁", "'"] + [chr(97 + i) for i in range(26)]
        if pieces and Path(pieces).suffix == ".txt":
            self.names = Path(pieces).read_text(encoding="utf-8").splitlines()
            self.processor = BytePairs({name: i for i, name in enumerate(self.names)})
        elif pieces:
            import sentencepiece
            self.processor = sentencepiece.SentencePieceProcessor(model_file=str(pieces))
            self.names = ["<blank>"] + [self.processor.id_to_piece(i) for i in range(1, self.processor.get_piece_size())]
        self.ids = {name: i for i, name in enumerate(self.names)}

    def __len__(self):
        return len(self.names)

    def encode(self, text):
        if self.processor:
            return self.processor.encode(text)           # its id 0 is <unk>, which never occurs; the others keep their places
        return [self.ids[c] for c in "▁" + text.replace(" ", "▁")]

    def decode(self, path):
        """Greedy: the best class of every frame -> text."""
        return " ".join("".join(self.names[c] for c in spoken(path)).replace("▁", " ").split())


def favoured(pairs):
    """``["queen=4"]`` -> {"queen": 4}: how often sources come in each round."""
    return {name: int(times) for name, times in (pair.split("=") for pair in pairs)}


class Shards:
    """The utterances of all finished shards in a folder; ``refresh`` finds those that were finished since."""

    def __init__(self, folder, held_out=(), favour=None):
        self.favour = favour or {}          # how often an item of a source comes in each round, where not once
        self.folder, self.held_out, self.names, self.items, self.audio = Path(folder), set(held_out), [], [], []

    def refresh(self):
        """Adds new shards and returns their utterances as (shard number, first sample, samples, text)."""
        fresh = []
        for path in sorted(self.folder.glob("shard-*.json")):
            if path.name in self.names or path.stem in self.held_out:
                continue
            self.names.append(path.name)
            self.audio.append(np.memmap(path.with_suffix(".pcm"), "<i2", "r"))
            read = [(len(self.audio) - 1, first, count, text, source) for first, count, text, source in json.loads(path.read_text())]
            fresh += read
            self.items += [item for item in read for _ in range(self.favour.get(item[4], 1))]
        return fresh

    def read(self, item):
        return self.audio[item[0]][item[1]:item[1] + item[2]].astype(np.float32) / 32768


class Batches(torch.utils.data.IterableDataset):
    """Endless batches of about ``seconds`` of padded audio. Speech not heard yet comes first; only then is anything repeated, in a new disguise."""

    def __init__(self, folder, tokens, geometry, seconds=60, seed=0, joined=0.3, strength=1.0, masks=1.0, longest=18, held_out=(), part=(0, 1), favour=None):
        self.held_out, self.part, self.favour = held_out, part, favour
        self.folder, self.tokens, self.geometry = folder, tokens, geometry
        self.seconds, self.seed, self.joined, self.strength, self.masks, self.longest = seconds, seed, joined, strength, masks, longest

    def utterance(self, rng, shards, queue):
        """One item, or two or three joined by a pause: (samples, text)."""
        parts, texts, total = [], [], 0
        for _ in range(1 if rng.random() > self.joined else rng.integers(2, 4)):
            samples = shards.read(queue[-1])
            if queue[-1][4] not in SYNTHESISED and rng.random() < 0.7:
                # Played a little slower or faster: the same words by a larger or smaller speaker.
                up, down = RATIOS[rng.integers(len(RATIOS))]
                samples = resample_poly(samples, up, down).astype(np.float32)
            if parts and total + len(samples) > self.longest * RATE:
                break
            texts.append(queue.pop()[3])
            if parts:
                parts.append(np.zeros(int(RATE * rng.uniform(0.05, 1.0)), np.float32))
            parts.append(samples * rng.uniform(0.5, 1))
            total = sum(map(len, parts))
            if len(queue) == 0:
                break

        def babble(length):
            samples = shards.read(shards.items[rng.integers(len(shards.items))])
            return np.roll(np.resize(samples, length), rng.integers(length))

        return augment(rng, np.concatenate(parts), babble, self.strength), " ".join(texts)

    def __iter__(self):
        torch.set_num_threads(1)
        worker = torch.utils.data.get_worker_info()
        part, parts = self.part                     # every training process hears its own part of the speech
        if worker:
            part, parts = part * worker.num_workers + worker.id, parts * worker.num_workers
        rng = np.random.default_rng([self.seed, part])
        shards, queue = Shards(self.folder, self.held_out, self.favour), []
        while True:
            fresh = shards.refresh()
            queue += shards.items[part::parts] if len(queue) < 200 else fresh[part::parts]
            rng.shuffle(queue)
            pool = [self.utterance(rng, shards, queue) for _ in range(min(150, len(queue) // 3))]
            pool.sort(key=lambda one: len(one[0]))
            batches, current = [], []
            for one in pool:
                if current and len(one[0]) * (len(current) + 1) > self.seconds * RATE:
                    batches.append(current)
                    current = []
                current.append(one)
            for batch in [batches[i] for i in rng.permutation(len(batches))]:
                yield self.collate(rng, batch)

    def collate(self, rng, batch):
        segment, _, right = self.geometry
        count = -(-max(len(samples) for samples, _ in batch) // (segment * 2 * HOP))
        frames = Model.feature_frames(count, self.geometry)
        clean = torch.stack([features(torch.from_numpy(samples), frames) for samples, _ in batch])
        masked = clean.clone()
        for row, (samples, _) in zip(masked, batch):
            if rng.random() < self.masks:
                mask(rng, row[: len(samples) // HOP].numpy())
        lengths = torch.tensor([min(count * segment, len(samples) // (2 * HOP) + 4) for samples, _ in batch])
        targets = {}
        for name, tokens in self.tokens.items():
            ids = [torch.tensor(tokens.encode(text)) for _, text in batch]
            targets[name] = (torch.cat(ids), torch.tensor([len(x) for x in ids]))
        offset = int(rng.integers(1500)) if rng.random() < 0.6 else 0
        return {"features": masked, "clean": clean, "lengths": lengths, "targets": targets, "offset": offset,
                "seconds": sum(len(samples) for samples, _ in batch) / RATE}


def batches(folder, tokens, geometry, workers=1, **options):
    return iter(torch.utils.data.DataLoader(Batches(folder, tokens, geometry, **options), batch_size=None, num_workers=workers, prefetch_factor=16))
