"""Loss and word error rate over the hours heard, as one SVG from the logs of runs: ``curves.py OUT.svg NAME=RUN_FOLDER[=LOG_FILE]...``

Runs stand one behind the other, in the order given; a run's ``log.jsonl`` has the error rates, the printed log (default ``RUN_FOLDER.log``) the loss.
"""

import json
import re
import sys
from pathlib import Path

WIDTH, HEIGHT, LEFT, RIGHT, TOP, GAP = 760, 300, 48, 180, 16, 44
COLOURS = {"dev-real": "#c0392b", "dev-actors": "#8e44ad", "librivox": "#d68910", "synthetic": "#1f6fb2"}
LABELS = {"dev-real": "telephone prompts", "dev-actors": "held-out actors", "librivox": "LibriVox (71 words)", "synthetic": "held-out synthetic"}


def read(runs):
    """[(name, first hour)], {set: [(hour, WER)]}, [[(hour, loss)] of a run]: hours counted over all runs."""
    starts, rates, losses, before = [], {}, [], 0.0
    for name, folder, log in runs:
        starts.append((name, before))
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        printed = re.findall(r"loss ([\d.]+) .*heard ([\d.]+) h", log.read_text()) if log.exists() else []
        for line in lines:
            for key, value in line.items():
                if key.endswith("/pieces"):
                    rates.setdefault(key.split("/")[0], []).append((before + line["hours"], value[0]))
        losses.append([(before + float(hours), float(loss)) for loss, hours in printed])
        before += max([line["hours"] for line in lines] + [float(hours) for _, hours in printed])
    return starts, rates, losses, before


def smooth(points, width=5):
    """The running mean over ``width`` points."""
    return [(points[i][0], sum(value for _, value in points[max(0, i - width + 1):i + 1]) / min(width, i + 1)) for i in range(len(points))]


def picture(starts, rates, losses, hours):
    """The SVG: error rates above, training loss below, on the same hours."""
    most = 10 * -(-max(value for points in rates.values() for _, value in points) // 10)
    highest = 3.0                       # the plateau of blanks; the loss before it is of no interest

    def place(hour, share, top):
        """Position in the picture that begins at ``top``."""
        return f"{LEFT + hour / hours * (WIDTH - LEFT - RIGHT):.1f} {top + (1 - share) * HEIGHT:.1f}"

    bottom = TOP + 2 * HEIGHT + GAP
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 40}" font-family="sans-serif" font-size="12">',
           "<title>Word error rate and training loss over hours of speech heard</title>", f'<rect width="{WIDTH}" height="{bottom + 40}" fill="#fff"/>']

    def frame(top, highest, step, title):
        """Lines, scale and names of the runs for one of the two pictures."""
        for i in range(int(highest / step) + 1):
            y = top + (1 - i * step / highest) * HEIGHT
            out.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/><text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{i * step:g}</text>')
        out.append(f'<text x="{LEFT + 8}" y="{top + 14}" font-weight="bold">{title}</text>')
        for name, hour in starts:
            x = place(hour, 1, top).split()[0]
            out.append(f'<path d="M{x} {top}V{top + HEIGHT}" stroke="#999" stroke-dasharray="3 3"/><text x="{float(x) + 3:.1f}" y="{top + HEIGHT - 4}" fill="#666">{name}</text>')

    lower = TOP + HEIGHT + GAP
    frame(TOP, most, 10, "word error rate, %")
    frame(lower, highest, 0.5, "training loss (CTC, each run's own augmentation)")
    for i, (name, points) in enumerate(rates.items()):
        path = "L".join(place(hour, value / most, TOP) for hour, value in points)
        out.append(f'<path d="M{path}" fill="none" stroke="{COLOURS.get(name, "#333")}" stroke-width="2"/>')
        out += [f'<circle cx="{p.split()[0]}" cy="{p.split()[1]}" r="2.5" fill="{COLOURS.get(name, "#333")}"/>' for p in path.split("L")]
        out.append(f'<text x="{WIDTH - RIGHT + 10}" y="{TOP + 14 + 18 * i}" fill="{COLOURS.get(name, "#333")}">{LABELS.get(name, name)}</text>')
    for points in losses:
        shown = [(hour, value) for hour, value in smooth(points) if value <= highest]
        if shown:
            out.append(f'<path d="M{"L".join(place(hour, value / highest, lower) for hour, value in shown)}" fill="none" stroke="#333"/>')
    for hour in range(0, int(hours) + 1, next(step for step in (5, 10, 25, 50, 100, 1000) if hours / step < 15)):
        out.append(f'<text x="{place(hour, 0, lower).split()[0]}" y="{bottom + 16}" text-anchor="middle">{hour}</text>')
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{bottom + 34}" text-anchor="middle">hours of speech heard</text></svg>')
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    wanted = []
    for argument in sys.argv[2:]:
        name, folder, *log = argument.split("=")
        wanted.append((name, Path(folder), Path(log[0]) if log else Path(folder + ".log")))
    Path(sys.argv[1]).write_text(picture(*read(wanted)))
