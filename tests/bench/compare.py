"""Real-time streams of one Emformer in Waxwing, torchaudio and onnxruntime, with the same random weights, on this machine, in one go.

``python tests/bench/compare.py [--sizes base,small] [--rounds 3] [--seconds 1.5] [--narrow]`` after ``cargo build --release``. Needs requirements.txt.

Each program is first tried with every batch size (and the peers with one thread, with two, and as two processes of one thread). Then the best
setting of each is measured again and again in turn, one program after the other. Of each the best round is printed, on a machine that others
use, too, the one which was disturbed least, and the ratio to torchaudio twice: of the best rounds, and the median of the ratios within a round,
which lie seconds apart. Streams are by the wall clock. Waxwing's sessions have mixed ages, the peers' one age.

The roofline is the faster of two matrix products of this machine's cores, Waxwing's own and torch's, in a size that fits the cache.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import sizes

HERE = Path(__file__).resolve().parent
THREADS = 2
BATCHES = {"waxwing": (8, 16, 32, 64), "torchaudio": (1, 8, 32, 64, 128), "onnxruntime": (1, 8, 32, 64)}
# Names of columns: how many processes of how many threads.
SPREADS = {"1 thread": (1, 1), "2 threads": (1, 2), "2 processes": (2, 1)}


class Peer:
    """Processes that answer one question after another."""

    def __init__(self, *arguments):
        environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
        self.processes = [subprocess.Popen([sys.executable, HERE / "peers.py", *map(str, arguments)], text=True, stdin=subprocess.PIPE,
                                           stdout=subprocess.PIPE, env=environment) for _ in range(THREADS)]

    def streams(self, spread, batch, seconds):
        count, threads = SPREADS[spread]
        asked = self.processes[:count]
        for process in asked:
            process.stdin.write(json.dumps({"threads": threads, "batch": batch, "seconds": seconds}) + "\n")
            process.stdin.flush()
        return sum(json.loads(process.stdout.readline())["streams"] for process in asked)

    def close(self):
        for process in self.processes:
            process.stdin.close()
            process.wait()


class Waxwing:
    def __init__(self, binary, directory, precision="f32"):
        self.binary, self.directory, self.precision = binary, directory, precision
        self.rows = []

    def measure(self, spread, batch, seconds):
        threads = {"1 thread": 1, "2 processes": THREADS}[spread]
        command = [self.binary, "bench", "--model", self.directory, "--frame-ms", int(1000 * sizes.FRAME_SECONDS), "--threads", threads,
                   "--batch", batch, "--seconds", seconds, "--json"]
        if self.precision != "f32":
            command += ["--precision", self.precision]
        row = json.loads(subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout)[0]
        self.rows.append(row)
        return row

    def streams(self, spread, batch, seconds):
        return self.measure(spread, batch, seconds)["streams"]

    def close(self):
        pass


def ask(*arguments):
    found = subprocess.run([sys.executable, HERE / "peers.py", *map(str, arguments)], check=True, capture_output=True, text=True)
    return json.loads(found.stdout.splitlines()[-1])


def convert(binary, name, folder):
    model = sizes.make(name)
    torch.save(model.state_dict(), folder / f"{name}.pt")
    derived = {"input_dim", "ffn_dim", "num_layers"}
    settings = [part for key, value in sizes.SIZES[name].items() if key not in derived
                for part in ("--set", f"{key}={str(value).lower() if isinstance(value, bool) else value}")]
    directory = folder / name
    subprocess.run([binary, "convert", "emformer", folder / f"{name}.pt", "-o", directory, *settings], check=True, capture_output=True)
    return model, directory


def deviation(binary, name, model, directory, folder):
    """Greatest difference of Waxwing's streamed frames from torchaudio's ``infer``, over a minute or so of two sessions."""
    size = sizes.SIZES[name]
    segments, segment, right = 24, size["segment_length"], size["right_context_length"]
    features = torch.randn(2, segments * segment + right, size["input_dim"])
    lengths = torch.full((2,), segments * segment)
    save_file({"features": features, "lengths": lengths}, folder / "features.safetensors")
    subprocess.run([binary, "encode", directory, "--features", folder / "features.safetensors", "--streaming", "-o",
                    folder / "encoded.safetensors"], check=True, capture_output=True)
    found, states, expected = load_file(folder / "encoded.safetensors")["output"], None, []
    for begin in range(0, segments * segment, segment):
        output, _, states = model.infer(features[:, begin:begin + segment + right], torch.full((2,), segment + right), states)
        expected.append(output)
    return float((found - torch.cat(expected, 1)).abs().max())


def scout(program, name, seconds):
    """The best spread and batch size of a program, with all that was tried."""
    spreads = ("2 processes",) if isinstance(program, Waxwing) else SPREADS
    tried = {(spread, batch): program.streams(spread, batch, seconds) for spread in spreads for batch in BATCHES[name]}
    return max(tried, key=tried.get), tried


def compare(binary, size, folder, arguments):
    model, directory = convert(binary, size, folder)
    print(f"\n## {size}: {sizes.SIZES[size]}")
    print(f"greatest difference from torchaudio: Waxwing {deviation(binary, size, model, directory, folder):.1e}, ", end="")
    graph = folder / f"{size}.onnx"
    print(f"onnxruntime {ask('export', size, graph)['deviation']:.1e}", flush=True)
    programs = {
        "waxwing": Waxwing(binary, directory),
        "torchaudio": Peer("torchaudio", size),
        "onnxruntime": Peer("onnxruntime", size, graph),
    }
    if arguments.narrow:
        ask("quantise", graph, folder / f"{size}.int8.onnx")
        programs |= {f"waxwing {precision}": Waxwing(binary, directory, precision) for precision in ("bf16", "int8", "w8a8")}
        programs["onnxruntime int8"] = Peer("onnxruntime", size, folder / f"{size}.int8.onnx")
    best, rounds = {}, {name: [] for name in programs}
    for name, program in programs.items():
        best[name], tried = scout(program, name.split()[0], arguments.seconds / 2)
        print(f"{name:16} " + "  ".join(f"{spread}·{batch}: {streams:.1f}" for (spread, batch), streams in tried.items()), flush=True)
    peaks = []
    for _ in range(arguments.rounds):
        for name, program in programs.items():
            rounds[name].append(program.streams(*best[name], arguments.seconds))
        peaks.append(THREADS * ask("peak")["peak"])
    for program in programs.values():
        program.close()
    return report(programs, best, rounds, max(peaks))


def report(programs, best, rounds, torch_peak):
    own = programs["waxwing"].rows
    own_peak = max(row["peak"] / row["threads"] for row in own) * THREADS
    peak = max(own_peak, torch_peak)
    # A row's percentage is of its own peak and by processor time; multiply-adds per stream follow from it.
    row = own[-1]
    per_stream = row["percent_of_peak"] / 100 * row["peak"] / row["streams_undisturbed"]
    print(f"roofline of {THREADS} cores: {peak / 1e9:.1f} G multiply-adds/s (own product {own_peak / 1e9:.1f}, torch's {torch_peak / 1e9:.1f}); "
          f"a stream needs {per_stream / 1e9:.2f}")
    reference = max(rounds["torchaudio"])
    print("| program | best setting | streams | rounds | % of roofline | × torchaudio | median of rounds |")
    print("|---|---|---|---|---|---|---|")
    result = {}
    for name, streams in rounds.items():
        spread, batch = best[name]
        ratios = [own / torchaudio for own, torchaudio in zip(streams, rounds["torchaudio"], strict=True)]
        each = ", ".join(f"{value:.1f}" for value in streams)
        print(f"| {name} | {spread}, batch {batch} | {max(streams):.1f} | {each} | {100 * max(streams) * per_stream / peak:.0f} "
              f"| {max(streams) / reference:.2f} | {statistics.median(ratios):.2f} |", flush=True)
        result[name] = {"spread": spread, "batch": batch, "streams": streams}
    return result | {"peak": peak}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--waxwing", type=Path, default=HERE.parents[1] / "target/release/waxwing")
    parser.add_argument("--sizes", default="base,small")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--narrow", action="store_true", help="also Waxwing's bf16, int8 and w8a8 and onnxruntime's int8")
    parser.add_argument("--json", type=Path, help="write all rounds here, too")
    arguments = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        for size in arguments.sizes.split(","):
            results[size] = compare(arguments.waxwing, size, Path(folder), arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
