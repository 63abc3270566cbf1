"""How fast the beam search is beside other decoders, on one core, in one go, without and with a language model.

``python ctc_speed.py [LOG_PROBS.safetensors]`` after ``cargo build --release --workspace --all-targets``. Every decoder gets the same log-probs, width and
pruning; the fastest of several runs counts, interleaved. Theirs is processor time, ours is wall time, so a busy machine is unkind to us alone. Prints Markdown tables of microseconds a frame and ratios.

* flashlight-text's lexicon-free decoder with ``log_add``: beam_size_token = our ``max_tokens``, beam_threshold = our ``max_distance``. With ``ZeroLM``, and with its KenLM,
  which scores every token; ours then does the same with the same ARPA file, a trigram over the classes that is made here.
* fast-ctc-decode on probabilities: beam_cut_threshold = our ``min_token_log_prob``; its threshold has to be below one over the classes.
* pyctcdecode with KenLM, whose language model scores words where they end, as ours does in sessions: the same ARPA file of words, the same 40 classes at most a frame by
  probability. It is Python, and merges by text.
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
import pyctcdecode
from flashlight.lib.text.decoder import CriterionType, LexiconFreeDecoder, LexiconFreeDecoderOptions, ZeroLM
from flashlight.lib.text.decoder.kenlm import KenLM
from flashlight.lib.text.dictionary import Dictionary
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).parent
OURS = Path(os.environ.get('BENCH_DECODE', HERE.parent.parent / 'target/release/examples/bench_decode'))
TOKENS = HERE.parent.parent / "model/pretrained/en-emformer/tokens.txt"
WORDS = HERE / "language_model.arpa"
ROUNDS = 5
WEIGHT = 0.4


def ours(path, width, max_tokens, floor, distance, *language_model):
    output = subprocess.run([OURS, path, str(width), str(max_tokens), str(floor), str(distance), "3", *map(str, language_model)], check=True, capture_output=True, text=True)
    return float(output.stdout)


def timed(call, frames):
    begin = time.process_time()
    call()
    return 1e6 * (time.process_time() - begin) / frames


def flashlight(log_probs, width, max_tokens, distance, language_model, weight):
    options = LexiconFreeDecoderOptions(beam_size=width, beam_size_token=max_tokens, beam_threshold=distance, lm_weight=weight, sil_score=0.0, log_add=True,
                                        criterion_type=CriterionType.CTC)
    frames, classes = log_probs.shape
    # Class 0 is blank; no class is silence, so a number behind all of them stands for it.
    decoder = LexiconFreeDecoder(options, language_model, classes if weight else 0, 0, [])
    pointer = log_probs.ctypes.data_as(ctypes.c_void_p).value
    return lambda: decoder.decode(pointer, frames, classes)


def fast(log_probs, width, threshold):
    letters = [chr(0x4E00 + index) for index in range(log_probs.shape[1])]
    probabilities = np.exp(log_probs)
    return lambda: fast_ctc_decode.beam_search(probabilities, letters, beam_size=width, beam_cut_threshold=threshold)


def python_decoder(log_probs, width, distance):
    names = TOKENS.read_text().splitlines()
    labels = ["" if name == "<blank>" else name for name in names]
    decoder = pyctcdecode.build_ctcdecoder(labels, str(WORDS), alpha=WEIGHT, beta=0.0)
    # The 40th most probable class bounds the classes of a frame.
    return lambda: decoder.decode(log_probs, beam_width=width, beam_prune_logp=-distance, token_min_logp=-9.0)


def token_model(path, classes):
    """A trigram over the classes, without blank: random, and normalised well enough for the clock."""
    rng = np.random.default_rng(2)
    names = [f"t{index}" for index in range(1, classes)]
    pairs = sorted({tuple(pair) for pair in rng.integers(0, len(names), (20_000, 2)).tolist()})
    triples = sorted({(*pairs[first], int(last)) for first, last in zip(rng.integers(0, len(pairs), 40_000), rng.integers(0, len(names), 40_000))})
    # Every history and every ending has to be listed.
    known = set(pairs)
    triples = [triple for triple in triples if triple[1:] in known]
    with open(path, "w") as file:
        file.write(f"\\data\\\nngram 1={len(names) + 3}\nngram 2={len(pairs)}\nngram 3={len(triples)}\n\n\\1-grams:\n-3\t<unk>\n-99\t<s>\t-0.3\n-2\t</s>\n")
        file.writelines(f"{-1.5 - 2 * value:.4f}\t{name}\t{-0.5 * value:.4f}\n" for name, value in zip(names, rng.random(len(names))))
        file.write("\n\\2-grams:\n")
        file.writelines(f"{-0.5 - 2 * value:.4f}\t{names[a]} {names[b]}\t{-0.5 * value:.4f}\n" for (a, b), value in zip(pairs, rng.random(len(pairs))))
        file.write("\n\\3-grams:\n")
        file.writelines(f"{-0.2 - 2 * value:.4f}\t{names[a]} {names[b]} {names[c]}\n" for (a, b, c), value in zip(triples, rng.random(len(triples))))
        file.write("\n\\end\\\n")


def main():
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[-1]})
    files = [Path(argument) for argument in sys.argv[1:]] or [HERE / "ctc_voice.safetensors"]
    noise = np.random.default_rng(1).standard_normal((400, 256)) * 2.0
    noise[:, 0] += 3.0
    noise = (noise - np.log(np.exp(noise).sum(1, keepdims=True))).astype(np.float32)
    random_file, arpa = Path("/tmp/waxwing-ctc-speed.safetensors"), Path("/tmp/waxwing-ctc-speed.arpa")
    save_file({"log_probs": noise}, random_file)
    token_model(arpa, noise.shape[1])
    print("| log-probs | width | against | pruning | theirs, µs a frame | ours | ratio |\n|---|---|---|---|---|---|---|")
    for path in files + [random_file]:
        log_probs = np.ascontiguousarray(load_file(path)["log_probs"])
        frames, classes = log_probs.shape
        is_voice = path != random_file
        name = path.stem if is_voice else "random"
        dictionary = Dictionary(["<blank>", *(f"t{index}" for index in range(1, classes))])
        kenlm = KenLM(str(arpa), dictionary)
        for width in (5, 10, 50, 100):
            threshold = 0.25 / classes
            rivals = [("flashlight-text", "40 classes, 25 nats", flashlight(log_probs, width, 40, 25.0, ZeroLM(), 0.0), (40, -1000.0, 25.0)),
                      ("fast-ctc-decode", f"classes above {threshold:.4f}", fast(log_probs, width, threshold), (classes, math.log(threshold), 1000.0)),
                      ("flashlight-text, KenLM over tokens", "40 classes, 25 nats", flashlight(log_probs, width, 40, 25.0, kenlm, WEIGHT),
                       (40, -1000.0, 25.0, "tokens", arpa, WEIGHT))]
            if is_voice:
                rivals.append(("pyctcdecode, KenLM over words", "classes above e⁻⁹, 14 nats", python_decoder(log_probs, width, 14.0),
                               (classes, -9.0, 14.0, "words", WORDS, WEIGHT, TOKENS)))
            for rival, pruning, call, our_pruning in rivals:
                call()
                theirs, mine = math.inf, math.inf
                for _ in range(ROUNDS):
                    theirs = min(theirs, timed(call, frames))
                    mine = min(mine, ours(path, width, *our_pruning))
                print(f"| {name} | {width} | {rival} | {pruning} | {theirs:.2f} | {mine:.2f} | {theirs / mine:.1f} × |", flush=True)
    random_file.unlink()
    arpa.unlink()


if __name__ == "__main__":
    main()
