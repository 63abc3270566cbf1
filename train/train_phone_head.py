"""Trains the second listener's phone head on Whisper's encoder, which stays as it is: the loss of phones beside all that could have been said (phone_sequences.py). Checkpoints and resume by run_state.py."""

import argparse
import math
import time
from pathlib import Path

import torch

import evaluate
from data import Batches, Tokens, favoured, spoken
from model import LEFT_CONTEXT, RIGHT_CONTEXT, Model, load_whisper
from phone_head import PhoneHead
from phones import Phones
from run_state import Run
from train_fsmn import ctc, halves, told_apart, usual
from train_listener import hear, hear_recording

BEHIND = 10                                                    # frames behind an utterance in which its last phones may still be said


class Spoken(Batches):
    """Batches with the phones of what is said."""

    phones = Phones()

    def collate(self, rng, batch):
        return super().collate(rng, batch) | self.phones.targets([text for _, text in batch])


@torch.no_grad()
def wrong_phones(model, head, clips):
    """Percent of the phones that the best path gets wrong, where the dictionary knows all words."""
    phones, wrong, count = Phones(), 0, 0
    for samples, reference in clips:
        said = phones.encode(reference)
        if said is None:
            continue
        behind, frames = hear_recording(model, samples)
        wrong += evaluate.errors(said, spoken(head(behind)[0, :frames + BEHIND].argmax(-1).tolist()))
        count += len(said)
    return round(100 * wrong / max(count, 1), 1)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--speech", type=Path, required=True, help="folder of shards")
    parser.add_argument("--whisper", type=Path, required=True, help="Whisper tiny.en as a CTranslate2 file")
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoints and log, and of phone_head.pt for export.py")
    parser.add_argument("--held-out", nargs="*", default=["shard-0-0000"])
    parser.add_argument("--favour", nargs="*", default=[], metavar="SOURCE=TIMES", help="sources that come more than once in each round")
    parser.add_argument("--test", type=Path, nargs="*", default=[], help="test sets to watch, every third clip (never trained on)")
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--warmup", type=int, default=50, help="steps")
    parser.add_argument("--plain", type=int, default=60, help="steps at the beginning with CTC's own loss")
    parser.add_argument("--rate", type=float, default=1.5e-3, help="peak learning rate")
    parser.add_argument("--seconds", type=float, default=40, help="padded audio in a batch")
    parser.add_argument("--joined", type=float, default=0.2, help="share of items made of several utterances")
    parser.add_argument("--strength", type=float, default=0.6, help="of the augmentation")
    parser.add_argument("--masks", type=float, default=0.3, help="share of items with SpecAugment")
    parser.add_argument("--average", type=float, default=0.998)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--every", type=float, default=240, help="seconds between checkpoints, which are also measured")
    return parser.parse_args()


def main():
    options = arguments()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind = torch.bfloat16 if halves(device) else torch.float32
    options.out.mkdir(parents=True, exist_ok=True)
    model = load_whisper(Model(4, {}), options.whisper).eval().to(device).requires_grad_(False)
    head, judged = PhoneHead().to(device), PhoneHead().to(device).eval()
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.0, weight_decay=0.01)
    run = Run(options, head, optimizer)
    tests = evaluate.watched(options.test)
    speech = Spoken(options.speech, {"characters": Tokens()}, (64, LEFT_CONTEXT, RIGHT_CONTEXT), options.seconds, int(time.time()), options.joined, options.strength, options.masks, 14,
                    options.held_out, favour=favoured(options.favour))
    source = iter(torch.utils.data.DataLoader(speech, batch_size=None, num_workers=1, prefetch_factor=8))
    follows = usual(options.speech, options.held_out)

    def checkpoint():
        run.save()
        torch.save({"average": run.average.weights}, options.out / "phone_head.pt")
        judged.load_state_dict(run.average.weights)
        run.log({f"{name}/phones": wrong_phones(model, judged, clips) for name, clips in tests.items()})

    while run.progress < 1:
        batch = next(source)
        with torch.no_grad(), torch.autocast(device.type, kind, enabled=kind != torch.float32):
            behind = hear(model, batch["features"].to(device), batch["lengths"])
        log_probs, lengths = head([one.float() for one in behind]), batch["lengths"] + BEHIND
        asked = (log_probs, lengths, batch["phones"], batch["phones_known"])
        loss = ctc(*asked) if run.step < options.plain else told_apart(*asked, follows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = options.rate * min(1, (run.step + 1) / options.warmup) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * run.progress)))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if run.stepped(loss.item(), batch["seconds"]):
            checkpoint()
    checkpoint()


if __name__ == "__main__":
    main()
