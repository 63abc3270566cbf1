"""A run of training in one process: how far it is, its averaged weights, its checkpoints, from which it goes on, and its log."""

import json
import time

import torch

from progress import Progress
from train import Average


class Run:
    """``options``: out, minutes, every (seconds between checkpoints), average (of the weights)."""

    def __init__(self, options, model, optimizer):
        self.options, self.model, self.optimizer = options, model, optimizer
        self.average, self.step, self.heard, self.spent, self.recent = Average(model), 0, 0.0, 0.0, []
        self.last = options.out / "last.pt"
        if self.last.exists():
            saved = torch.load(self.last, map_location=next(model.parameters()).device, weights_only=False)
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            self.average.weights, self.average.count, self.step, self.heard, self.spent = (saved[name] for name in ("average", "count", "step", "heard", "spent"))
        self.before, self.begun = self.spent, time.time()
        self.saved_at = self.begun
        self.bar = Progress(options.out.name, options.minutes, "min", self.spent / 60)

    @property
    def progress(self):
        """From 0 to 1."""
        return min(1.0, self.spent / (60 * self.options.minutes))

    def stepped(self, loss, seconds):
        """After each update of the weights, for which so many seconds were heard anew: whether a checkpoint is due."""
        self.average.update(self.model, self.options.average)
        self.step, self.heard, self.spent = self.step + 1, self.heard + seconds, self.before + time.time() - self.begun
        self.recent.append(loss)
        self.bar.at(self.spent / 60, loss=loss)
        if len(self.recent) == 50:
            print(f"step {self.step} loss {sum(self.recent) / 50:.3f} heard {self.heard / 3600:.2f} h in {self.spent / 60:.1f} min", flush=True)
            self.recent = []
        return time.time() - self.saved_at > self.options.every

    def save(self):
        """Writes what the run goes on from."""
        torch.save({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "average": self.average.weights, "count": self.average.count,
                    "step": self.step, "heard": self.heard, "spent": self.spent}, self.last.with_suffix(".tmp"))
        self.last.with_suffix(".tmp").rename(self.last)

    def log(self, measured):
        """Writes down what was measured of the averaged weights."""
        line = {"step": self.step, "hours": round(self.heard / 3600, 2), "minutes": round(self.spent / 60, 1)} | measured
        print(json.dumps(line), flush=True)
        with open(self.options.out / "log.jsonl", "a") as log:
            log.write(json.dumps(line) + "\n")
        self.saved_at = time.time()
