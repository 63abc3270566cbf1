"""Checkpoints as the originals' own programs save them, with what they compute: fixtures of `waxwing convert`.

``python checkpoints.py FSMN CSR`` writes the folder ``checkpoints`` next to itself: for every kind of ``originals.py`` a few files of `torch.save`, with
``checkpoints.json`` and ``checkpoints.safetensors``. FSMN and CSR are git clones of github.com/d5555/FSMN and github.com/gheyret/csr-pytorch.

csr-pytorch's networks have 14 to 18 million weights. Of their files only the pickle is kept, and a test makes the weights from their names as
``csr.py`` does.
"""

import io
import json
import random
import sys
import zipfile
from pathlib import Path

import originals
import torch
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent / "checkpoints"
# By kind, what its drawings are to differ in: one file for each that is found.
WANTED = {
    "fsmn": lambda case: ("fsmn_layers.0._bias1" in case.weights, "fsmn_layers.0.embeddings_table" in case.weights, "memory_size" in case.settings),
    "fsmn-vad": lambda case: 0,
    "fsmn-ctc": lambda case: case.settings["rstride"] > 0,
    "sense-voice": lambda case: 0,
    "sanm": lambda case: 0,
    "recurrent": lambda case: (rows_a_column(case.weights.get("rnn.weight_hh_l0")), "rnn.0.u.weight" in case.weights,
                               "rnn.0.norm.running_mean" in case.weights),
    "recurrent-cells": lambda case: rows_a_column(case.weights["rnn_cells.0.weight_hh"]),
    "attentional-rnn-decoder": lambda case: [name for name in case.weights if "loc" in name or "key" in name][:1],
    "skim": lambda case: (case.streams, "mem_type" in case.settings),
}


def rows_a_column(matrix):
    """1, 3 or 4: what tells an RNN, a GRU and an LSTM apart."""
    return 0 if matrix is None else matrix.shape[0] // matrix.shape[1]


def drawn(kind, seed, clones):
    torch.manual_seed(seed)
    return originals.KINDS[kind](random.Random(seed), torch.float32, clones)


def main():
    torch.set_num_threads(1)
    clones = {"fsmn": sys.argv[1], "csr": sys.argv[2]}
    HERE.mkdir(exist_ok=True)
    tensors, table = {}, []
    for kind, differs in WANTED.items():
        seen = set()
        for seed in range(60):
            case = drawn(kind, seed, clones)
            if str(differs(case)) in seen:
                continue
            seen.add(str(differs(case)))
            name = f"{kind}-{len(seen)}"
            torch.save(case.weights, HERE / f"{name}.pt")
            for file, text in case.files.items():
                (HERE / f"{name}.{file}").write_text(text)
            row = dict(name=name, kind=kind, set=case.settings, files=list(case.files), streams=case.streams, encoded=None, runs=len(case.runs))
            if case.encoded:
                row["encoded"] = dict(lengths=case.lengths, outputs=list(case.encoded))
                tensors[f"{name}.features"] = case.features
                tensors |= {f"{name}.encoded.{output}.{item}": rows for output, items in case.encoded.items() for item, rows in enumerate(items)}
            for number, (inputs, outputs) in enumerate(case.runs):
                tensors |= {f"{name}.{number}.inputs.{key}": value for key, value in inputs.items()}
                tensors |= {f"{name}.{number}.outputs.{key}": value for key, value in outputs.items()}
            table.append(row)
    network = originals.original(clones["csr"], "426e5e6", "cnn_model.py", "cnn_model").ConvNet2()
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    with zipfile.ZipFile(file) as archive:
        pickle = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        (HERE / "csr-convnet.pkl").write_bytes(archive.read(pickle))
    shapes = [[name, list(value.shape)] for name, value in network.state_dict().items()]
    save_file({name: value.detach().clone().contiguous() for name, value in tensors.items()}, HERE / "checkpoints.safetensors")
    rows = ",\n".join(json.dumps(row) for row in table)
    (HERE / "checkpoints.json").write_text(f'{{"checkpoints": [\n{rows}\n],\n"csr-convnet": {json.dumps(shapes)}}}\n')
    print(len(table), "checkpoints")


if __name__ == "__main__":
    with torch.no_grad():
        main()
