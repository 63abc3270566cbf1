"""Trains the small model on the shards that synthesis.py and recordings.py write, taught by the larger model (lessons.py), with checkpoints and resume.

It begins with the larger model's stem, which stays as it is, its head, and the most important parts of its layers. First each stage learns for itself what the larger model's layer does (``--apart --words 0 --phones 0
--spoken 0 --posteriors 0``), then the chain of them. The loss is CTC's, of word pieces at the end and of phones in the middle, that of phones at the end (phone_sequences.py), the cross entropy with the larger model's posteriors,
and the distance between the streams behind each stage and behind the larger model's layer, whose weight falls with the learning rate. At last it goes on with CTC's alone (``--words 0.5 --posteriors 0 --states 0``):
who follows longer learns the larger model's mistakes. In the last ``--rounding`` of the time the weights of the linear layers are rounded to 6 bits on the way forward, as export.py stores them, and learn to live
with it. Several processes update the same weights without waiting for each other, as in train.py.
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
from torch.nn import functional as F

import evaluate
from data import Shards, Tokens, favoured
from features import LOG_FLOOR
from fsmn import SPOKEN, DeepFsmn, Linear, begin_with, inherit
from lessons import LIKELY, STATES, Lessons, spread
from muon import Muon
from phone_sequences import Everything, triples
from phones import Phones
from progress import Progress
from train import launch


def halves(device):
    """Whether the device multiplies matrices of bf16 faster than of f32: twice as fast on processors with AVX-512 BF16 and on GPUs."""
    return torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--speech", type=Path, required=True, help="folder of shards")
    parser.add_argument("--teacher", type=Path, required=True, help="model directory of the larger model: what to begin with, and the word pieces")
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoints and of the log")
    parser.add_argument("--start", type=Path, nargs="*", default=[], help="checkpoint or exported model directory to begin with; of several, the mean of their weights")
    parser.add_argument("--held-out", nargs="*", default=["shard-0-0000"])
    parser.add_argument("--favour", nargs="*", default=[], metavar="SOURCE=TIMES", help="sources that come more than once in each round, such as queen=4")
    parser.add_argument("--test", type=Path, nargs="*", default=[], help="test sets to watch (never trained on)")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--warmup", type=int, default=200, help="steps")
    parser.add_argument("--decay", type=float, default=1.0, help="share of --minutes, at the end, in which the learning rate falls")
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--apart", action="store_true", help="each stage begins with the teacher's stream")
    parser.add_argument("--words", type=float, default=0.3, help="weight of CTC's loss; 0 with --posteriors 0 follows the teacher's streams only")
    parser.add_argument("--phones", type=float, default=0.3, help="weight of CTC's loss of the phones, behind the stage in the middle")
    parser.add_argument("--spoken", type=float, default=1.0, help="weight of the loss of the phones at the end, beside all that could have been said")
    parser.add_argument("--states", type=float, default=20, help="weight of the distance to the teacher's streams at the peak rate")
    parser.add_argument("--posteriors", type=float, default=1.0, help="weight of the cross entropy with the teacher's posteriors")
    parser.add_argument("--rounding", type=float, default=0.08, help="share of --minutes, at the end, with rounded weights")
    parser.add_argument("--seconds", type=float, default=24, help="padded audio in a batch")
    parser.add_argument("--joined", type=float, default=0.2, help="share of items made of several utterances")
    parser.add_argument("--strength", type=float, default=1.0, help="of the augmentation")
    parser.add_argument("--masks", type=float, default=0.5, help="share of items with SpecAugment, and with another vocal tract")
    parser.add_argument("--muon", action="store_true", help="the layers' matrices learn by Muon instead of AdamW")
    parser.add_argument("--average", type=float, default=0.997)
    parser.add_argument("--every", type=float, default=240, help="seconds between checkpoints")
    parser.add_argument("--keep", action="store_true", help="the averaged weights of every checkpoint, as kept-STEP.pt")
    parser.add_argument("--processes", type=int, default=1 if torch.cuda.is_available() else 2)
    parser.add_argument("--workers", type=int, default=1, help="that make batches, for each process")
    return parser.parse_args()


def ctc(log_probs, lengths, targets, asked=None):
    """The CTC loss per target token; ``asked`` (batch) leaves items out."""
    ids, counts = targets
    losses = F.ctc_loss(log_probs.transpose(0, 1), ids.to(log_probs.device), lengths, counts, reduction="none", zero_infinity=True)
    return (losses if asked is None else losses[asked]).sum() / counts.sum().clamp_min(1)


def told_apart(log_probs, lengths, targets, asked, follows, plain=0.1):
    """CTC's loss beside all that could have been said, per phone, and a little of CTC's own, which keeps the blanks where they are; items that are not asked are left out."""
    loss = plain * ctc(log_probs, lengths, targets, asked)
    if asked.any():
        everything = Everything.apply(log_probs[asked].cpu(), lengths[asked].cpu(), follows).sum().to(log_probs.device)
        loss = loss + ctc(log_probs, lengths, targets, asked) + everything.float() / targets[1].sum().clamp_min(1)
    return loss


def usual(speech, held_out):
    """Which phones follow which in the transcripts of all shards but those that are held out."""
    shards, phones = Shards(speech, held_out), Phones()
    shards.refresh()
    return triples(said for item in shards.items if (said := phones.encode(item[3])))


def lesson(model, batch, options, unit, follows):
    """What is wrong with a batch, by the names of the options that weigh it; what weighs nothing is left out."""
    log_probs, behind = model.lessons(batch["features"], *([batch["states"].float(), batch["states_known"]] if options.apart else []))
    wrong = {}
    if options.words:
        wrong["words"] = ctc(log_probs, batch["lengths"], batch["targets"])
    if options.phones:
        wrong["phones"] = ctc(model.phones(behind[SPOKEN]).float().log_softmax(-1), batch["lengths"], batch["phones"], batch["phones_known"])
    if options.spoken:
        wrong["spoken"] = told_apart(model.phones_of(behind[-1]), batch["lengths"], batch["phones"], batch["phones_known"], follows)
    if options.states and batch["states_known"].any():
        known = batch["states_known"]
        told = batch["states"][known].float() / unit
        wrong["states"] = sum(F.mse_loss(stream[:, :known.shape[1]][known] / unit[i], told[:, i]) for i, stream in enumerate(behind)) / len(behind)
    if options.posteriors and batch["posterior_known"].any():
        known = batch["posterior_known"]
        # Summed over frames and divided by tokens, as CTC's loss is.
        told = log_probs[:, :known.shape[1]][known].gather(1, batch["posterior_ids"][known])
        wrong["posteriors"] = -(told * batch["posteriors"][known]).sum() / batch["targets"][1].sum().clamp_min(1)
    return wrong


def work(rank, options, model, shared, average, saved):
    """One training process. Rank 0 also averages, measures and saves."""
    torch.set_num_threads(1)
    device = next(model.parameters()).device
    kind = torch.bfloat16 if halves(device) else torch.float32
    tokens = Tokens(options.teacher / "tokens.txt")
    model.stem.convolutions.requires_grad_(False)
    matrices = [matrix for layer in model.layers for matrix in (layer.linear.weight, layer.project.weight)] if options.muon else []
    others = [value for value in model.parameters() if value.requires_grad and not any(value is matrix for matrix in matrices)]
    optimizers = [torch.optim.AdamW(others, lr=0.0, betas=(0.9, 0.99), weight_decay=0.01, fused=True)] + ([Muon(matrices, kind=kind)] if matrices else [])
    if saved:
        if len(saved["optimizers"]) != len(optimizers):
            raise SystemExit(f"{options.out} was trained {'without' if options.muon else 'with'} --muon: go on with it in the same way")
        for optimizer, state in zip(optimizers, saved["optimizers"]):
            optimizer.load_state_dict(state)
    last, tests = options.out / "last.pt", {}
    if rank == 0:
        tests = evaluate.watched(options.test)
        if (options.speech / f"{options.held_out[0]}.json").exists():
            tests["synthetic"] = evaluate.synthetic_set(options.speech, options.held_out[0], 40)
        judged = DeepFsmn(len(tokens)).to(device)

    def checkpoint():
        step, heard, spent = shared.tolist()
        torch.save({"model": model.state_dict(), "optimizers": [optimizer.state_dict() for optimizer in optimizers], "average": average.weights, "count": average.count,
                    "state": shared.clone(), "options": {name: str(value) for name, value in vars(options).items()}}, last.with_suffix(".tmp"))
        last.with_suffix(".tmp").rename(last)
        if options.keep:
            torch.save({"average": average.weights}, options.out / f"kept-{int(step):08}.pt")
        judged.load_state_dict(average.weights)
        line = {"step": int(step), "hours": round(heard / 3600, 2), "minutes": round(spent / 60, 1)}
        for name, clips in tests.items():
            result = evaluate.summary(evaluate.score(judged, {"ctc": tokens}, clips)["ctc"], 200)
            line[f"{name}/pieces"] = [result["wer"], result["cer"]]
        print(json.dumps(line), flush=True)
        with open(options.out / "log.jsonl", "a") as log:
            log.write(json.dumps(line) + "\n")

    lessons = Lessons(options.speech, tokens, None, options.seconds, int(time.time()), options.joined, options.strength, options.masks, held_out=options.held_out,
                      follow=[STATES] * bool(options.states or options.apart) + [LIKELY] * bool(options.posteriors), part=(rank, options.processes), favour=favoured(options.favour))
    source = iter(torch.utils.data.DataLoader(lessons, batch_size=None, num_workers=options.workers, prefetch_factor=8))
    started = saved_at = time.time()
    spent_before, recent = shared[2].item(), []
    unit = spread(options.speech) if options.states else None
    unit = unit if unit is None else unit.to(device)
    follows = usual(options.speech, options.held_out) if options.spoken else None
    bar = Progress(options.out.name, options.minutes, "min", spent_before / 60) if rank == 0 else None
    while shared[2].item() < options.minutes * 60:
        batch = {name: value.to(device) if torch.is_tensor(value) else value for name, value in next(source).items()}
        progress = shared[2].item() / (options.minutes * 60)
        falling = max(0.0, 1 - (1 - progress) / options.decay)
        scale = min(1, (shared[0].item() + 1) / options.warmup) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * falling)))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = options.rate * scale
        Linear.rounding = progress > 1 - options.rounding
        with torch.autocast(device.type, kind, enabled=kind != torch.float32):
            wrong = lesson(model, batch, options, unit, follows)
        if wrong:                                              # not if the larger model alone is followed and has heard nothing of it
            weights = vars(options) | {"states": options.states * scale}
            sum(weights[name] * value for name, value in wrong.items()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        shared[0] += 1
        shared[1] += batch["seconds"]
        recent.append({name: value.item() for name, value in wrong.items()})
        if rank == 0:
            now = time.time()
            shared[2] = spent_before + now - started
            average.update(model, options.average)
            bar.at(shared[2].item() / 60, **recent[-1])
            if len(recent) == 50:
                means = {name: sum(one.get(name, 0) for one in recent) / 50 for name in dict.fromkeys(name for one in recent for name in one)}
                shown = " ".join(f"{'loss' if name == 'words' else name} {value:.4f}" for name, value in means.items())
                print(f"step {int(shared[0])} {shown} heard {shared[1] / 3600:.2f} h in {shared[2] / 60:.1f} min", flush=True)
                recent = []
            if now - saved_at > options.every:
                checkpoint()
                saved_at = time.time()
    if rank == 0:
        checkpoint()


def main():
    options = arguments()
    torch.set_num_threads(1)
    model = DeepFsmn(len(Tokens(options.teacher / "tokens.txt")))

    def begin():
        if options.start:
            begin_with(model, evaluate.mean_weights(options.start))
        else:
            teacher, _ = evaluate.load(options.teacher)
            clips = evaluate.synthetic_set(options.speech, options.held_out[0], 40)
            inherit(model, teacher, (teacher.spectrum(torch.from_numpy(samples), LOG_FLOOR) for samples, _ in clips))

    launch(work, options, model, begin)


if __name__ == "__main__":
    main()
