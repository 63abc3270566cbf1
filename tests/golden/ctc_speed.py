"""How fast the beam search is beside other decoders, on one core, in one go.

``python ctc_speed.py [LOG_PROBS.safetensors]`` after ``cargo build --release --workspace --all-targets``. Every decoder gets the same log-probs, width and
pruning; the fastest of several runs counts, interleaved. Theirs is processor time, ours is wall time, so a busy machine is unkind to us alone. Prints a Markdown table of microseconds a frame and ratios.

* flashlight-text's lexicon-free decoder with ``ZeroLM`` and ``log_add``: beam_size_token = our ``max_tokens``, beam_threshold = our ``max_distance``.
* fast-ctc-decode on probabilities: beam_cut_threshold = our ``min_token_log_prob``; its threshold has to be below one over the classes.
"""

import ctypes
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import fast_ctc_decode
import numpy as np
from flashlight.lib.text.decoder import CriterionType, LexiconFreeDecoder, LexiconFreeDecoderOptions, ZeroLM
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).parent
OURS = HERE.parent.parent / "target/release/examples/bench_decode"
ROUNDS = 5


def ours(path, width, max_tokens, floor, distance):
    output = subprocess.run([OURS, path, str(width), str(max_tokens), str(floor), str(distance), "3"], check=True, capture_output=True, text=True)
    return float(output.stdout)


def timed(call, frames):
    begin = time.process_time()
    call()
    return 1e6 * (time.process_time() - begin) / frames


def flashlight(log_probs, width, max_tokens, distance):
    options = LexiconFreeDecoderOptions(beam_size=width, beam_size_token=max_tokens, beam_threshold=distance, lm_weight=0.0, sil_score=0.0, log_add=True,
                                        criterion_type=CriterionType.CTC)
    frames, classes = log_probs.shape
    decoder = LexiconFreeDecoder(options, ZeroLM(), 0, 0, [])
    pointer = log_probs.ctypes.data_as(ctypes.c_void_p).value
    return lambda: decoder.decode(pointer, frames, classes)


def fast(log_probs, width, threshold):
    letters = [chr(0x4E00 + index) for index in range(log_probs.shape[1])]
    probabilities = np.exp(log_probs)
    return lambda: fast_ctc_decode.beam_search(probabilities, letters, beam_size=width, beam_cut_threshold=threshold)


def main():
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[-1]})
    files = [Path(argument) for argument in sys.argv[1:]] or [HERE / "ctc_voice.safetensors"]
    noise = np.random.default_rng(1).standard_normal((400, 256)) * 2.0
    noise[:, 0] += 3.0
    noise = (noise - np.log(np.exp(noise).sum(1, keepdims=True))).astype(np.float32)
    random_file = Path("/tmp/waxwing-ctc-speed.safetensors")
    save_file({"log_probs": noise}, random_file)
    print("| log-probs | width | against | pruning | theirs, µs a frame | ours | ratio |\n|---|---|---|---|---|---|---|")
    for path in files + [random_file]:
        log_probs = np.ascontiguousarray(load_file(path)["log_probs"])
        frames, classes = log_probs.shape
        name = "random" if path == random_file else path.stem
        for width in (5, 10, 50, 100):
            threshold = 0.25 / classes
            rivals = [("flashlight-text", "40 classes, 25 nats", flashlight(log_probs, width, 40, 25.0), (40, -1000.0, 25.0)),
                      ("fast-ctc-decode", f"classes above {threshold:.4f}", fast(log_probs, width, threshold), (classes, math.log(threshold), 1000.0))]
            for rival, pruning, call, our_pruning in rivals:
                call()
                theirs, mine = math.inf, math.inf
                for _ in range(ROUNDS):
                    theirs = min(theirs, timed(call, frames))
                    mine = min(mine, ours(path, width, *our_pruning))
                print(f"| {name} | {width} | {rival} | {pruning} | {theirs:.2f} | {mine:.2f} | {theirs / mine:.1f} × |", flush=True)
    random_file.unlink()


if __name__ == "__main__":
    main()
