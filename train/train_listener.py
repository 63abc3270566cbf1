"""Trains the second listener: Whisper's text decoder on Whisper's encoder, which hears a whole utterance and not 30 s of mostly silence.

The encoder stays as it is. The decoder has to learn little: when a short recording ends, lower case without stops, and how words are spelled in a smaller
vocabulary. The longer it learns from our speech, the more it forgets of everybody else's, so it learns for minutes, and what is exported lies
between the learnt weights and Whisper's own (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022). What reads the encoder
(attention to its frames, and their norm) has the full learning rate, what writes text a third. Between fresh batches, heard ones are replayed from the
encoder's output. Checkpoints and resume by run_state.py.
"""

import argparse
import json
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

import evaluate
from data import batches, favoured
from features import HOP, LOG_FLOOR, features
from model import LEFT_CONTEXT, RIGHT_CONTEXT, Model, load_whisper
from run_state import Run
from text_decoder import END, SILENT, START, TextDecoder, Vocabulary, choose, load_whisper_decoder

PADDING = 50                                                   # frames of silence behind an utterance: a second
RANGE = 2.0                                                    # of features: eight decades, as Whisper's own have
SILENCE = (np.log10(LOG_FLOOR) + 4) / 4


def vocabulary_of(folder, tokenizer, texts, count):
    """The vocabulary in ``folder``, chosen now if it is not there, and the places of its tokens in GPT-2's."""
    file = folder / "text_tokens.json"
    if not file.exists():
        file.write_text(json.dumps(choose(texts, tokenizer, count)))
    chosen = json.loads(file.read_text())
    vocabulary = Vocabulary([name for name, _ in chosen] + [START, SILENT, END])
    (folder / "text_tokens.txt").write_text("\n".join(vocabulary.names) + "\n", encoding="utf-8")
    return vocabulary, chosen


def rows_of(batch, vocabulary):
    """Inputs and targets (batch, longest): the prompt, the text, the end; -100 where nothing is asked."""
    flat, lengths = batch["targets"]["words"]
    longest = int(lengths.max()) + 2
    inputs = torch.full((len(lengths), longest), vocabulary.end)
    targets = torch.full((len(lengths), longest), -100)
    for i, row in enumerate(flat.split(lengths.tolist())):
        inputs[i, :len(row) + 2] = torch.cat([torch.tensor([vocabulary.start, vocabulary.silent]), row])
        targets[i, 1:len(row) + 2] = torch.cat([row, torch.tensor([vocabulary.end])])
    return inputs, targets


def hear(model, spectrum, lengths, padding=PADDING):
    """(batch, feature frames, 80) and output frames of speech -> [(batch, longest + padding, DIM)] behind each layer, before the last norm."""
    frames = int(lengths.max()) + padding
    spectrum = spectrum[:, : 2 * frames + 1]
    spectrum = F.pad(spectrum, (0, 0, 0, 2 * frames + 1 - spectrum.shape[1]), value=SILENCE)
    return list(model.behind(*model.enter(torch.maximum(spectrum, spectrum.amax((1, 2), keepdim=True) - RANGE), context="whole")))


def hear_recording(model, samples):
    """A recording alone -> ([(1, frames + PADDING, DIM)] behind each layer, frames of speech)."""
    frames = len(samples) // (2 * HOP) + 4
    spectrum = features(torch.from_numpy(np.ascontiguousarray(samples, np.float32)), 2 * frames + 1)
    return hear(model, spectrum[None].to(next(model.parameters()).device), torch.tensor([frames])), frames


@torch.no_grad()
def read_alone(model, decoder, vocabulary, clips):
    """The decoder's own greedy transcripts, without the first pass: rows as of evaluate.score."""
    rows = []
    for samples, reference in clips:
        behind, _ = hear_recording(model, samples)
        text = vocabulary.decode(decoder.greedy(behind[-1][0], vocabulary, 8 + len(samples) // 1600))
        rows.append((evaluate.errors(reference.split(), text.split()), len(reference.split()), evaluate.errors(reference, text), len(reference), text))
    return rows


def between(own, learnt, keep):
    """Weights between Whisper's own and the learnt ones."""
    return {name: keep * own[name] + (1 - keep) * value for name, value in learnt.items()}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--speech", type=Path, required=True, help="folder of shards")
    parser.add_argument("--whisper", type=Path, required=True, help="Whisper tiny.en as a CTranslate2 file, its tokenizer.json beside it")
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoints, log, vocabulary, and listener.pt for export.py")
    parser.add_argument("--tokens", type=int, default=12000, help="size of the vocabulary")
    parser.add_argument("--held-out", nargs="*", default=["shard-0-0000"])
    parser.add_argument("--favour", nargs="*", default=[], metavar="SOURCE=TIMES", help="sources that come more than once in each round")
    parser.add_argument("--test", type=Path, nargs="*", default=[], help="test sets to watch, every third clip (never trained on)")
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--decay", type=float, default=0.5, help="share of --minutes, at the end, in which the learning rate falls")
    parser.add_argument("--warmup", type=int, default=60, help="steps")
    parser.add_argument("--rate", type=float, default=1e-4, help="peak learning rate of what reads the encoder")
    parser.add_argument("--writing", type=float, default=0.3, help="share of it for everything else")
    parser.add_argument("--replay", type=float, default=1.5, help="replayed batches for each fresh one")
    parser.add_argument("--seconds", type=float, default=40, help="padded audio in a batch")
    parser.add_argument("--joined", type=float, default=0.3, help="share of items made of several utterances")
    parser.add_argument("--strength", type=float, default=0.7, help="of the augmentation")
    parser.add_argument("--masks", type=float, default=0.3, help="share of items with SpecAugment")
    parser.add_argument("--average", type=float, default=0.99)
    parser.add_argument("--keep", type=float, default=0.3, help="share of Whisper's own weights in what is exported")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--every", type=float, default=200, help="seconds between checkpoints, which are also measured")
    return parser.parse_args()


def main():
    options = arguments()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    options.out.mkdir(parents=True, exist_ok=True)
    texts = [item[2] for path in sorted(options.speech.glob("shard-*.json")) for item in json.loads(path.read_text())]
    vocabulary, chosen = vocabulary_of(options.out, options.whisper.parent / "tokenizer.json", texts, options.tokens)
    model = load_whisper(Model(4, {}), options.whisper).eval().to(device).requires_grad_(False)
    decoder = load_whisper_decoder(options.whisper, chosen, options.whisper.parent / "tokenizer.json").to(device)
    own = {name: value.clone() for name, value in decoder.state_dict().items()}
    is_reading = {name: "cross" in name or "input_norm" in name for name, _ in decoder.named_parameters()}
    groups = [{"params": [p for name, p in decoder.named_parameters() if is_reading[name] == reads], "peak": options.rate * share}
              for reads, share in ((True, 1.0), (False, options.writing))]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0)
    run = Run(options, decoder, optimizer)
    tests = evaluate.watched(options.test)
    source = batches(options.speech, {"words": vocabulary}, (64, LEFT_CONTEXT, RIGHT_CONTEXT), 1, longest=14, seconds=options.seconds, seed=int(time.time()), held_out=options.held_out,
                     joined=options.joined, strength=options.strength, masks=options.masks,
                     favour=favoured(options.favour))

    def checkpoint():
        run.save()
        judged = TextDecoder(len(vocabulary)).to(device).eval()
        exported = between(own, run.average.weights, options.keep)
        judged.load_state_dict(exported)
        encoder = {f"encoder.{name}": value for name, value in model.state_dict().items() if not name.startswith("layer_norm")}
        torch.save({"average": exported | encoder}, options.out / "listener.pt")
        results = {name: evaluate.summary(read_alone(model, judged, vocabulary, clips), 200) for name, clips in tests.items()}
        run.log({f"{name}/alone": [float(result["wer"]), float(result["cer"])] for name, result in results.items()})

    cache = []
    while run.progress < 1:
        fresh = 0.0
        if len(cache) > 10 and random.random() < options.replay / (1 + options.replay):
            batch, encoded = random.choice(cache)
            encoded = encoded.float()
        else:
            batch = next(source)
            with torch.no_grad():
                encoded = hear(model, batch["features"].to(device), batch["lengths"])[-1]
            cache.append(({name: batch[name] for name in ("targets", "lengths")}, encoded.half()))
            fresh = batch["seconds"]
        falling = max(0.0, 1 - (1 - run.progress) / options.decay)
        scale = min(1, (run.step + 1) / options.warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * falling)))
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * scale
        visible = torch.arange(encoded.shape[1], device=device) < batch["lengths"][:, None].to(device) + PADDING
        inputs, targets = (rows.to(device) for rows in rows_of(batch, vocabulary))
        logits = decoder(inputs, decoder.memory(F.dropout(encoded, 0.05)), visible)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if run.stepped(loss.item(), fresh):
            checkpoint()
    checkpoint()


if __name__ == "__main__":
    main()
