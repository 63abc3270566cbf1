"""Trains on the shards that synthesis.py writes, with checkpoints and resume.

Two stages, each a call: ``--freeze 4`` learns the fresh layer and the heads on the frozen Whisper encoder; then ``--freeze 2`` (or less, with more
computing) moves the upper layers too; ``--anchor`` holds them near what Whisper's full-context encoder says of the same audio. The learning rate
falls as a cosine over the last ``--decay`` of ``--minutes`` of training time (on a machine whose speed nobody knows beforehand, late). Uses a GPU when there is one. On a CPU several processes update the same weights without waiting
for each other (``--processes``), which bears a busy machine better than threads that meet after every product.
"""

import argparse
import json
import math
import random
import time
from pathlib import Path

import torch
from torch.nn import functional as F

import evaluate
from data import Tokens, batches, favoured
from model import FFN, LEFT_CONTEXT, RIGHT_CONTEXT, Model, load_whisper
from progress import Progress


def groups(model, options):
    """Parameter groups: frozen layers stay out; the learning rate falls by ``--layer-decay`` a layer towards the stem."""
    fresh = list(model.heads.parameters()) + list(model.layer_norm.parameters()) + [p for layer in model.emformer_layers[4:] for p in layer.parameters()]
    made = [{"params": fresh, "peak": options.rate}]
    for i, layer in enumerate(model.emformer_layers[:4]):
        if i < options.freeze:
            layer.requires_grad_(False)
        else:
            made.append({"params": list(layer.parameters()), "peak": options.encoder_rate * options.layer_decay ** (3 - i)})
    if options.freeze:
        model.stem.requires_grad_(False)
    else:
        made.append({"params": list(model.stem.parameters()), "peak": options.encoder_rate * options.layer_decay ** 4})
    return made


class Average:
    """A moving average of the weights: what is evaluated and exported."""

    def __init__(self, model):
        self.weights, self.count = {k: v.detach().clone() for k, v in model.state_dict().items()}, 0

    def update(self, model, keep):
        self.count += 1
        keep = min(keep, self.count / (self.count + 9))
        for name, value in model.state_dict().items():
            self.weights[name].lerp_(value, 1 - keep)


def ctc(log_probs, batch, heads, device):
    """The mean over heads of the CTC loss per target token."""
    losses = []
    for name in heads:
        targets, lengths = batch["targets"][name]
        loss = F.ctc_loss(log_probs[name].transpose(0, 1).float(), targets.to(device), batch["lengths"], lengths, reduction="sum", zero_infinity=True)
        losses.append(loss / lengths.sum())
    return sum(losses) / len(losses)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--speech", type=Path, required=True, help="folder of shards")
    parser.add_argument("--whisper", type=Path, required=True, help="Whisper tiny.en as a CTranslate2 file")
    parser.add_argument("--pieces", type=Path, required=True, help="SentencePiece model of the word-piece head")
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoints and of the log")
    parser.add_argument("--start", type=Path, help="checkpoint of an earlier stage")
    parser.add_argument("--heads", nargs="+", default=["characters", "pieces"])
    parser.add_argument("--held-out", nargs="*", default=["shard-0-0000"])
    parser.add_argument("--favour", nargs="*", default=[], metavar="SOURCE=TIMES", help="sources that come more than once in each round, such as queen=4")
    parser.add_argument("--test", type=Path, nargs="*", default=[], help="test sets to watch (never trained on)")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--until", metavar="HH:MM", help="train until this time of the day instead of for --minutes")
    parser.add_argument("--warmup", type=int, default=60, help="steps")
    parser.add_argument("--decay", type=float, default=1.0, help="share of --minutes, at the end, in which the learning rate falls")
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate of the fresh layer and the heads")
    parser.add_argument("--encoder-rate", type=float, default=1e-4, help="peak learning rate of the last Whisper layer")
    parser.add_argument("--layer-decay", type=float, default=0.6)
    parser.add_argument("--freeze", type=int, default=4, help="Whisper layers that stay as they are (with the stem)")
    parser.add_argument("--anchor", type=float, default=0.0, help="weight of the distance to the full-context encoder")
    parser.add_argument("--seconds", type=float, default=50, help="padded audio in a batch")
    parser.add_argument("--joined", type=float, default=0.15, help="share of items made of several utterances")
    parser.add_argument("--strength", type=float, default=1.0, help="of the augmentation")
    parser.add_argument("--masks", type=float, default=0.5, help="share of items with SpecAugment")
    parser.add_argument("--average", type=float, default=0.99)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--every", type=float, default=240, help="seconds between checkpoints")
    parser.add_argument("--measure", type=int, default=1, help="measure at every so many checkpoints and at the end; 0 never does")
    parser.add_argument("--processes", type=int, default=1 if torch.cuda.is_available() else 2)
    parser.add_argument("--replay", type=float, default=0.0, help="replayed batches for each fresh one, with frozen layers")
    parser.add_argument("--cache", type=int, default=1500, help="batches that a process keeps for replay")
    parser.add_argument("--ffn", type=int, default=FFN, help="feed-forward width, when narrow.py made the start narrower")
    parser.add_argument("--segment", type=int, default=32, help="segment length while training")
    return parser.parse_args()


def work(rank, options, model, shared, average, saved):
    """One training process. Rank 0 also averages, measures and saves."""
    torch.set_num_threads(options.threads)
    device = next(model.parameters()).device
    tokens = {name: Tokens(options.pieces if name == "pieces" else None) for name in options.heads}
    teacher = load_whisper(Model(4), options.whisper).to(device).eval().requires_grad_(False) if options.anchor else None
    optimizer = torch.optim.AdamW(groups(model, options), lr=0.0, betas=(0.9, 0.98), weight_decay=0.01)
    if saved:
        optimizer.load_state_dict(saved["optimizer"])
    last, tests = options.out / "last.pt", {}
    if rank == 0:
        tests = evaluate.watched(options.test)
        if options.held_out and (options.speech / f"{options.held_out[0]}.json").exists():
            tests["synthetic"] = evaluate.synthetic_set(options.speech, options.held_out[0], 20)
        judged = Model(heads={name: len(t) for name, t in tokens.items()}, ffn=options.ffn).to(device)

    def checkpoint(measured):
        """Saves everything; measures the averaged weights too, where asked."""
        step, heard, spent = shared.tolist()
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "average": average.weights, "count": average.count,
                    "state": shared.clone(), "options": {name: str(value) for name, value in vars(options).items()}}, last.with_suffix(".tmp"))
        last.with_suffix(".tmp").rename(last)
        if not measured:
            return
        judged.load_state_dict(average.weights)
        line = {"step": int(step), "hours": round(heard / 3600, 2), "minutes": round(spent / 60, 1)}
        for name, clips in tests.items():
            for head, rows in evaluate.score(judged, tokens, clips).items():
                result = evaluate.summary(rows, 200)
                line[f"{name}/{head}"] = [result["wer"], result["cer"]]
        print(json.dumps(line), flush=True)
        with open(options.out / "log.jsonl", "a") as log:
            log.write(json.dumps(line) + "\n")

    source = batches(options.speech, tokens, model.geometry, options.workers, seconds=options.seconds, seed=int(time.time()), held_out=options.held_out,
                     joined=options.joined, strength=options.strength, masks=options.masks,
                     favour=favoured(options.favour), part=(rank, options.processes))
    started = saved_at = time.time()
    spent_before = shared[2].item()
    recent, cache, saves = [], [], 0
    if options.until:
        end = time.mktime(time.strptime(time.strftime("%Y-%m-%d ") + options.until, "%Y-%m-%d %H:%M"))
        options.minutes = (shared[2].item() + end - time.time()) / 60
    bar = Progress(options.out.name, options.minutes, "min", spent_before / 60) if rank == 0 else None
    while shared[2].item() < options.minutes * 60:
        # Between fresh batches, heard ones are replayed from the output of the frozen layers: cheap steps for what is learnt above them.
        replayed = bool(options.replay) and len(cache) > 20 and random.random() < options.replay / (1 + options.replay)
        if replayed:
            batch, x, visible = random.choice(cache)
            x = F.dropout(x.float(), 0.1)
        else:
            batch = next(source)
            with torch.no_grad():
                x, visible = model.enter(batch["features"].to(device), batch["offset"]) if options.freeze else (None, None)
                x = model.run(x, visible, range(options.freeze)) if options.freeze else None
            if not options.freeze:
                x, visible = model.enter(batch["features"].to(device), batch["offset"])
            elif options.replay:
                kept = {name: batch[name] for name in ("targets", "lengths", "seconds")}
                cache.append((kept, x.half(), visible))
                if len(cache) > options.cache:
                    del cache[random.randrange(len(cache) // 2)]
        progress = shared[2].item() / (options.minutes * 60)
        falling = max(0.0, 1 - (1 - progress) / options.decay)
        scale = min(1, (shared[0].item() + 1) / options.warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * falling)))
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * scale
        model.train()
        low = model.run(x, visible, range(options.freeze, 4))
        high = model.layer_norm(model.utterance(model.run(low, visible, range(4, len(model.emformer_layers)))))
        loss = ctc({name: head(high).log_softmax(-1) for name, head in model.heads.items()}, batch, options.heads, device)
        distance = torch.zeros(())
        if teacher and not replayed:
            with torch.no_grad():
                wanted = teacher.layer_norm(teacher.encode(batch["clean"].to(device), batch["offset"], "full"))
            got = teacher.layer_norm(model.utterance(low))
            distance = F.mse_loss(got, wanted[:, : got.shape[1]]) / wanted.var()
        (loss + options.anchor * distance).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        now = time.time()
        shared[0] += 1
        shared[1] += 0 if replayed else batch["seconds"]
        if not replayed:
            recent.append((loss.item(), distance.item()))
        if rank == 0:
            shared[2] = spent_before + now - started
            average.update(model, options.average)
            bar.at(shared[2].item() / 60, loss=loss.item())
            if len(recent) == 25 and not replayed:
                print(f"step {int(shared[0])} loss {sum(r[0] for r in recent) / 25:.3f} distance {sum(r[1] for r in recent) / 25:.4f} "
                      f"heard {shared[1] / 3600:.2f} h in {shared[2] / 60:.1f} min", flush=True)
                recent = []
            if now - saved_at > options.every:
                saves += 1
                checkpoint(bool(options.measure) and saves % options.measure == 0)
                saved_at = time.time()
    if rank == 0:
        checkpoint(bool(options.measure))


def launch(work, options, model, begin):
    """Trains in one process or several: from the last checkpoint in ``options.out``, or from what ``begin()`` gives the model."""
    options.out.mkdir(parents=True, exist_ok=True)
    last = options.out / "last.pt"
    shared = torch.zeros(3, dtype=torch.float64)          # steps, seconds heard, seconds spent
    saved = torch.load(last, map_location="cpu", weights_only=False) if last.exists() else None
    if saved:
        model.load_state_dict(saved["model"])
        shared.copy_(saved["state"])
    else:
        begin()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    average = Average(model)
    if saved:
        average.weights, average.count = {name: value.to(device) for name, value in saved["average"].items()}, saved["count"]
    if options.processes == 1:
        work(0, options, model, shared, average, saved)
    else:
        model.share_memory()
        shared.share_memory_()
        torch.multiprocessing.spawn(work, (options, model, shared, average, saved), options.processes)


def main():
    options = arguments()
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.set_num_threads(options.threads)
    heads = {name: len(Tokens(options.pieces if name == "pieces" else None)) for name in options.heads}
    geometry = (options.segment, LEFT_CONTEXT, RIGHT_CONTEXT)
    model = Model(heads=heads, geometry=geometry, ffn=options.ffn)
    if not options.start:
        load_whisper(model, options.whisper)

    def begin():
        if options.start:
            own = model.state_dict()
            found = torch.load(options.start, map_location="cpu", weights_only=False)["average"]
            model.load_state_dict({name: value for name, value in found.items() if name in own and value.shape == own[name].shape}, strict=False)

    launch(work, options, model, begin)


if __name__ == "__main__":
    main()
