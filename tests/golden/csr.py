"""Golden data for csr-pytorch: what the repository's own code computes, run from a clone of it and never copied.

``python csr.py CLONE`` writes ``csr.safetensors`` and ``csr.json`` next to itself. CLONE is a git directory of ``gheyret/csr-pytorch``; the three
networks named ConvNet2 and the spectrogram are taken from its public commits.

The networks have 14 to 18 million weights, so that the fixture does not hold them: both sides make them from their names.
"""

import json
import subprocess
import sys
import types
from pathlib import Path

import numpy
import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent
VARIANTS = {"two_lstm": "426e5e6", "three_lstm": "5e30aec", "six_layers": "31a44b4"}
LENGTHS = [37, 30, 17]


def module(clone, commit, path, name):
    """A file of a commit, as a module."""
    source = subprocess.run(["git", f"--git-dir={clone}", "show", f"{commit}:{path}"], check=True, capture_output=True, text=True).stdout
    made = types.ModuleType(name)
    sys.modules[name] = made
    exec(compile(source, f"{commit}:{path}", "exec"), made.__dict__)
    return made


def noise(name, count):
    """Uniform in ±1/2 with 24 bits: splitmix64 counting from FNV-1a of the name."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x100000001B3) & (2**64 - 1)
    with numpy.errstate(over="ignore"):
        z = numpy.uint64(seed) + numpy.arange(1, count + 1, dtype=numpy.uint64) * numpy.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        z ^= z >> numpy.uint64(31)
    return (z >> numpy.uint64(40)).astype(numpy.float32) / numpy.float32(2**24) - numpy.float32(0.5)


def weight(name, shape):
    values = noise(name, int(numpy.prod(shape)))
    if len(shape) == 1:
        values = values + numpy.float32(1) if name.endswith("running_var") else values * numpy.float32(0.5)
        if name.split(".")[-2] in ("1", "module") and name.endswith("weight"):
            values = values + numpy.float32(1)
    else:
        values = values * numpy.float32(2.0 ** round(numpy.log2(4 / numpy.sqrt(numpy.prod(shape[1:])))))
    return torch.from_numpy(values.reshape(shape))


def main(clone):
    torch.set_num_threads(1)
    tensors, table = {}, []
    features = torch.from_numpy(noise("features", 3 * 37 * 70).reshape(3, 37, 70)) * 4
    tensors["features"] = features
    for variant, commit in VARIANTS.items():
        network = module(clone, commit, "cnn_model.py", "cnn_model").ConvNet2().eval()
        names = {name: tuple(value.shape) for name, value in network.state_dict().items() if value.is_floating_point()}
        made = {name: weight(name, shape) for name, shape in names.items()}
        for kind, dtype in (("f32", torch.float32), ("f64", torch.float64)):
            network.to(dtype).load_state_dict({name: value.to(dtype) for name, value in made.items()}, strict=False)
            x = features.to(dtype).transpose(1, 2)[:, None]
            batched, lengths = network(x, torch.tensor(LENGTHS))
            tensors[f"{variant}.{kind}.batched"] = batched.transpose(0, 1)
            for item, length in enumerate(LENGTHS):
                alone, _ = network(x[item:item + 1, :, :, :length], torch.tensor([length]))
                tensors[f"{variant}.{kind}.alone{item}"] = alone.transpose(0, 1)
        table.append({"variant": variant, "parameters": sum(value.numel() for value in network.parameters()), "lengths": lengths.tolist()})
    sys.modules["data"] = types.ModuleType("data")
    sys.modules["data"].signal_processing = module(clone, VARIANTS["six_layers"], "data/signal_processing.py", "data.signal_processing")
    front_end = module(clone, VARIANTS["six_layers"], "data/front_end_processing.py", "data.front_end_processing")
    for count in (1, 200, 320, 321, 1_600, 2_050):
        samples = noise(f"samples{count}", count)
        if count == 1_600:
            samples[400:1_200] = 0
        spectrogram = front_end.logfbank(samples.astype(numpy.float64), 16_000, winlen=0.02, winstep=0.01, nfilt=70, nfft=512)
        tensors |= {f"samples{count}": torch.from_numpy(samples), f"spectrogram{count}": torch.from_numpy(spectrogram * 2).float()}
    save_file({name: value.detach().clone().contiguous() for name, value in tensors.items()}, HERE / "csr.safetensors")
    (HERE / "csr.json").write_text("[\n" + ",\n".join(json.dumps(row) for row in table) + "\n]\n")


if __name__ == "__main__":
    with torch.no_grad():
        main(sys.argv[1])
