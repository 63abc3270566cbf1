"""Golden data for the FSMN family, in f32 and f64.

``python fsmn.py CHECKOUT`` writes ``fsmn.safetensors`` and ``fsmn.json`` next to itself. CHECKOUT is a clone of github.com/d5555/FSMN, which has no
licence and is therefore run, never copied: its cells at 65d278d and, for the older table of cvFSMN, at 172dd9e. FunASR's encoder comes
from its package; the networks of the papers are written out below, sum by sum, as their formulas stand.
"""

import itertools
import json
import subprocess
import sys
import types
from pathlib import Path

import torch
import torch.nn.functional as F
from funasr.models.fsmn_vad_streaming.encoder import FSMN as FunasrFsmn
from safetensors.torch import save_file

HERE = Path(__file__).parent
CELLS = {"sfsmn": "sFSMNCell", "vfsmn": "vFSMNCell", "csfsmn": "csFSMNCell", "cvfsmn": "cvFSMNCell"}
BATCH, FRAMES = 2, 7
TYPES = {"f32": torch.float32, "f64": torch.float64}


def original(checkout, commit):
    source = subprocess.run(["git", "-C", checkout, "show", f"{commit}:FSMN.py"], check=True, capture_output=True, text=True).stdout
    module = types.ModuleType("original")
    exec(compile(source, "FSMN.py", "exec"), module.__dict__)
    return module


def in_both_types(run):
    """The originals make some tensors of the default type, so it follows."""
    out = {}
    for name, dtype in TYPES.items():
        torch.set_default_dtype(dtype)
        out |= {f"{name}.{key}": value.detach().to(dtype).contiguous() for key, value in run(dtype).items()}
    torch.set_default_dtype(torch.float32)
    return out


def random_weights(model):
    """Of a size that keeps values near 1, norms and biases included."""
    return {name: torch.randn_like(value) * (0.4 if value.ndim > 1 else 0.3) + (1.0 if name.endswith("norm1.weight") else 0.0)
            for name, value in model.state_dict().items()}


def cell_stacks(checkout):
    sources = {"n_plus_2": original(checkout, "65d278d"), "n_plus_1": original(checkout, "172dd9e")}
    tables = [(cell, "n_plus_2") for cell in CELLS] + [("cvfsmn", "n_plus_1")]
    for (cell, table), memory, seed in itertools.product(tables, [0, 1, 3, 9], range(2)):
        if table == "n_plus_1" and memory == 0:
            continue  # the original fails: its table has no row 1
        torch.manual_seed(100 * seed + memory)
        source, layers = sources[table], 1 + (memory + seed) % 3
        sizes = dict(memory_size=memory, input_size=4, hidden_size=5, output_size=3, n_layers=layers, d_ff=6)
        build = lambda bidirectional, dtype: source.FSMN(
            **sizes, fsmncell=getattr(source, CELLS[cell]), activation=F.gelu if seed else F.relu, bidirectional=bidirectional, dtype=dtype)
        weights = random_weights(build(False, torch.float32))
        x = torch.randn(BATCH, FRAMES, 4)
        # The second mask has holes, which the cells allow.
        mask = torch.ones(BATCH, FRAMES, dtype=torch.bool)
        mask[1] = torch.tensor([[1, 1, 1, 1, 0, 0, 0], [1, 0, 1, 1, 1, 0, 1]][seed], dtype=torch.bool)
        runs = []
        for bidirectional, masked in itertools.product([False, True], repeat=2):
            def run(dtype):
                model = build(bidirectional, dtype).to(dtype).eval()
                model.load_state_dict({name: value.to(dtype) for name, value in weights.items()})
                pad_mask = mask if masked else None
                cell_output = model.fsmn_layers[0](x.to(dtype), pad_mask)
                return {"cell": cell_output, "output": model(x.to(dtype), pad_mask)}
            runs.append((dict(bidirectional=bidirectional, masked=masked), in_both_types(run)))
        config = sizes | dict(cell=cell, table=table, activation="gelu" if seed else "relu")
        yield "fsmn", config, weights, {"input": x, "mask": mask.to(torch.uint8)}, runs


def funasr_encoders():
    for index, (lorder, rorder, lstride, rstride) in enumerate([(4, 0, 1, 0), (20, 0, 1, 0), (3, 2, 1, 1), (3, 2, 2, 1), (2, 3, 3, 2), (1, 1, 1, 1)]):
        torch.manual_seed(index)
        sizes = dict(input_dim=6, input_affine_dim=5, fsmn_layers=1 + index % 3, linear_dim=7, proj_dim=4, lorder=lorder, rorder=rorder,
                     lstride=lstride, rstride=rstride, output_affine_dim=5, output_dim=6, use_softmax=index % 2 == 0)
        weights = {name: torch.randn_like(value) * 0.5 for name, value in FunasrFsmn(**sizes).state_dict().items()}
        x = torch.randn(BATCH, 13, 6)

        def run(dtype):
            model = FunasrFsmn(**sizes).to(dtype).eval()
            model.load_state_dict({name: value.to(dtype) for name, value in weights.items()})
            out = {"output": model(x.to(dtype), None)}
            if rorder == 0 and lorder > 1:
                cache = {}
                out["chunked"] = torch.cat([model(x[:, begin:begin + 4].to(dtype), cache) for begin in range(0, 13, 4)], 1)
            return out
        yield "funasr-fsmn", sizes, weights, {"input": x}, [({}, in_both_types(run))]


def memory(p, back, ahead, left_stride, right_stride):
    """p~_t = p_t + sum_i a_i p_{t - s1 i} (i from 0) + sum_j c_j p_{t + s2 j} (j from 1), as written."""
    rows = []
    for t in range(p.shape[1]):
        row = p[:, t].clone()
        for i in range(back.shape[0]):
            if t - left_stride * i >= 0:
                row = row + back[i] * p[:, t - left_stride * i]
        for j in range(1, ahead.shape[0] + 1):
            if t + right_stride * j < p.shape[1]:
                row = row + ahead[j - 1] * p[:, t + right_stride * j]
        rows.append(row)
    return torch.stack(rows, 1)


def stem(config, weights, x):
    """Inside of each input frame, PyTorch's own convolutions over the frames that stand side by side there."""
    parts = x.unflatten(2, (config["frames"], -1)).flatten(0, 1).transpose(1, 2)
    for index, convolution in enumerate(config["convolutions"]):
        kernel = weights[f"stem.convolutions.{index}.weight"].unflatten(1, (convolution["taps"], -1)).transpose(1, 2)
        parts = F.gelu(F.conv1d(parts, kernel, weights[f"stem.convolutions.{index}.bias"], stride=convolution["stride"]))
    return (parts * weights["stem.joined.weight"].T).sum(2).unflatten(0, x.shape[:2])


def paper(config, weights, x):
    activation = {"relu": torch.relu, "gelu": F.gelu}[config.get("activation", "relu")]
    outputs = [stem(config["stem"], weights, x) if "stem" in config else x]
    for index, layer in enumerate(config["layers"]):
        w = {name.removeprefix(f"layers.{index}."): value for name, value in weights.items() if name.startswith(f"layers.{index}.")}
        entering = outputs[-1]
        if config.get("input_norm"):
            entering = F.layer_norm(entering, entering.shape[-1:], w["input_norm.weight"], w["input_norm.bias"])
        hidden = entering @ w["linear.weight"].T + w["linear.bias"]
        on_hidden = layer.get("memory_on") == "hidden"
        hidden = hidden if on_hidden else activation(hidden)
        if config.get("layer_norm"):
            hidden = F.layer_norm(hidden, hidden.shape[-1:], w["norm.weight"], w["norm.bias"])
        projected = lambda x: x @ w["project.weight"].T + w.get("project.bias", 0)
        p = hidden if on_hidden else projected(hidden)
        # A convolution's kernel runs forward in time, the papers' a_i backward.
        back = w["conv1.weight"][:, 0, :, 0].flip(1).T
        ahead = w["conv2.weight"][:, 0, :, 0].T if "conv2.weight" in w else p.new_zeros(0, p.shape[-1])
        m = memory(p, back, ahead, layer.get("left_stride", 1), layer.get("right_stride", 1))
        m = projected(m) if on_hidden else m
        if "skip_from" in layer:
            m = m + outputs[layer["skip_from"]]
        outputs.append(m)
    h = outputs[-1]
    if config.get("input_norm"):
        h = F.layer_norm(h, h.shape[-1:], weights["norm.weight"], weights["norm.bias"])
    for index in range(len(config.get("output_layers", []))):
        h = activation(h @ weights[f"output_layers.{index}.weight"].T + weights[f"output_layers.{index}.bias"])
    return {"output": h @ weights["output.weight"].T + weights["output.bias"]}


def paper_weights(config):
    out, width = {}, config["input_dim"]
    def affine(name, outputs, inputs, bias=True):
        out[f"{name}.weight"] = torch.randn(outputs, inputs) * 0.5
        if bias:
            out[f"{name}.bias"] = torch.randn(outputs) * 0.3
    def norm(name, size):
        out[f"{name}.weight"], out[f"{name}.bias"] = 1 + torch.randn(size) * 0.3, torch.randn(size) * 0.3
    if "stem" in config:
        width, parts = width // config["stem"]["frames"], config["stem"]["frames"]
        for index, convolution in enumerate(config["stem"]["convolutions"]):
            affine(f"stem.convolutions.{index}", convolution["dim"], convolution["taps"] * width)
            width, parts = convolution["dim"], (parts - convolution["taps"]) // convolution["stride"] + 1
        out["stem.joined.weight"] = torch.randn(parts, width) * 0.5
    for index, layer in enumerate(config["layers"]):
        name, hidden, width_of_memory = f"layers.{index}", layer["hidden_dim"], layer["memory_dim"]
        if config.get("input_norm"):
            norm(f"{name}.input_norm", width)
        affine(f"{name}.linear", hidden, width)
        if config.get("layer_norm"):
            norm(f"{name}.norm", hidden)
        affine(f"{name}.project", width_of_memory, hidden, config.get("projection_bias", False))
        remembered = hidden if layer.get("memory_on") == "hidden" else width_of_memory
        out[f"{name}.conv1.weight"] = torch.randn(remembered, 1, layer["left_order"], 1) * 0.4
        if layer.get("right_order"):
            out[f"{name}.conv2.weight"] = torch.randn(remembered, 1, layer["right_order"], 1) * 0.4
        width = width_of_memory
    if config.get("input_norm"):
        norm("norm", width)
    for index, outputs in enumerate(config.get("output_layers", [])):
        affine(f"output_layers.{index}", outputs, width)
        width = outputs
    affine("output", config["output_dim"], width)
    return out


def papers():
    layer = lambda left, right=0, memory_dim=4, **more: dict(hidden_dim=6, memory_dim=memory_dim, left_order=left, right_order=right, **more)
    configs = [
        # Compact FSMN: biased projections, no skips.
        dict(input_dim=5, layers=[layer(4, 2), layer(4, 2, 3)], projection_bias=True, output_dim=3),
        # Deep-FSMN: every layer skips from the one before, strides on both sides.
        dict(input_dim=4, layers=[layer(3, 2, left_stride=2, right_stride=1, skip_from=0), layer(3, 1, left_stride=2, right_stride=2, skip_from=1),
                                  layer(3, 0, skip_from=2)], output_layers=[5, 6], output_dim=3),
        # With ModelScope's layer norm.
        dict(input_dim=5, layers=[layer(5, 1), layer(5, 1, skip_from=1)], layer_norm=True, output_layers=[5], output_dim=3),
        # Pyramidal: orders grow with depth, skips where they change.
        dict(input_dim=5, layers=[layer(2, 1), layer(2, 1), layer(4, 2, skip_from=1), layer(4, 2), layer(6, 3, left_stride=2, skip_from=3)], output_layers=[4],
             output_dim=3),
        # One source, two skips; orders beyond the utterance.
        dict(input_dim=4, layers=[layer(15, 13, skip_from=0), layer(2, 12, right_stride=3, skip_from=0)], output_dim=3),
        # Whisper's convolutions inside of stacked frames, norms in front, as `en-fsmn` has them; and a stem alone.
        dict(input_dim=21, stem=dict(frames=7, convolutions=[dict(taps=3, stride=1, dim=5), dict(taps=3, stride=2, dim=4)]), activation="gelu", input_norm=True,
             projection_bias=True, layers=[layer(3, 2, skip_from=0, memory_on="hidden"), layer(3, 0, skip_from=1), layer(3, 1, skip_from=2)], output_dim=3),
        dict(input_dim=8, stem=dict(frames=4, convolutions=[dict(taps=2, stride=1, dim=3)]), activation="gelu", layers=[layer(2, 1)], output_layers=[4], output_dim=3),
    ]
    for index, config in enumerate(configs):
        torch.manual_seed(index)
        weights, x = paper_weights(config), torch.randn(BATCH, 11, config["input_dim"])
        run = lambda dtype: paper(config, {name: value.to(dtype) for name, value in weights.items()}, x.to(dtype))
        yield "deep-fsmn", config, weights, {"input": x}, [({}, in_both_types(run))]


def main():
    torch.set_num_threads(1)
    tensors, table = {}, []
    for architecture, config, weights, inputs, runs in itertools.chain(cell_stacks(sys.argv[1]), funasr_encoders(), papers()):
        index = len(table)
        tensors |= {f"{index}.weights.{name}": value.contiguous() for name, value in weights.items()}
        tensors |= {f"{index}.{name}": value for name, value in inputs.items()}
        for number, (_, outputs) in enumerate(runs):
            tensors |= {f"{index}.{number}.{name}": value for name, value in outputs.items()}
        table.append(dict(architecture=architecture, encoder=config, runs=[settings for settings, _ in runs]))
    save_file(tensors, HERE / "fsmn.safetensors")
    (HERE / "fsmn.json").write_text("[\n" + ",\n".join(json.dumps(case) for case in table) + "\n]\n")
    print(f"{len(table)} models, {sum(len(case['runs']) for case in table)} runs")


if __name__ == "__main__":
    with torch.no_grad():
        main()
