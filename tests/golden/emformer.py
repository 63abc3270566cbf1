"""Golden data for the Emformer: what torchaudio 2.11 itself computes, over the grid of its constructor.

``python emformer.py`` writes ``emformer.safetensors`` and ``emformer.json`` next to itself. One set of weights and one input serve all
cases, since no parameter's shape depends on the lengths that vary.

Every case runs in f32 and in f64. torchaudio converts attention scores to f32 before the softmax even in an f64 model; for the f64 runs that
one conversion is switched off, so that they separate wrong logic from rounding.
"""

import itertools
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torchaudio.models import Emformer

DIM, HEADS, FFN, LAYERS, SEGMENT, BATCH, FRAMES = 8, 2, 12, 2, 4, 3, 24
HERE = Path(__file__).parent


def cases():
    """The grid of memories, left and right contexts; the other choices are dealt out so that each meets many of them."""
    frames = itertools.cycle([12, 11, 2, 16, 13, 4, 9, 3, 8])
    activations = itertools.cycle(["relu", "gelu", "silu"])
    batches = itertools.cycle([1, 2, 3, 2])
    strategies = itertools.cycle(["depthwise", "constant", None])
    for index, (memory, left, right) in enumerate(itertools.product(range(5), [0, 2, 3, 5, 6, 30], [0, 1, 2, 3, 5])):
        batch = next(batches)
        yield dict(max_memory_size=memory, left_context_length=left, right_context_length=right, tanh_on_mem=index % 2 == 1,
                   activation=next(activations), frames=next(frames), batch=batch, ragged=batch > 1 and index % 4 == 1,
                   negative_inf=-2.0 if index % 7 == 3 else -1e8, weight_init_scale_strategy=next(strategies))


def lengths_of(case):
    frames = case["frames"]
    if not case["ragged"]:
        return [frames] * case["batch"]
    # The longest item is shorter than the tensor in some cases: torchaudio then masks relative to it.
    longest = frames - 1 if frames % 3 == 1 else frames
    return [max(1, longest - 2 * item) for item in range(case["batch"])]


def pad(x, frames):
    return torch.nn.functional.pad(x, (0, 0, 0, max(0, frames - x.shape[1])))


def run(case, weights, source, dtype):
    names = ("activation", "left_context_length", "right_context_length", "max_memory_size", "tanh_on_mem", "negative_inf",
             "weight_init_scale_strategy")
    model = Emformer(DIM, HEADS, FFN, LAYERS, SEGMENT, dropout=0.1, **{name: case[name] for name in names})
    model = model.to(dtype).eval()
    model.load_state_dict({name: value.to(dtype) for name, value in weights.items()})
    right, frames, batch = case["right_context_length"], case["frames"], case["batch"]
    lengths = lengths_of(case)
    source = source[:batch, :frames + right].to(dtype)
    out = {"forward": model(source, torch.tensor(lengths))[0]}
    states, outputs = None, []
    for begin in range(0, frames, SEGMENT):
        # The segments of a ragged batch say how much of them is real; otherwise they are full, filled up with zeros at the end.
        real = [min(max(length - begin, 0), SEGMENT) if case["ragged"] else SEGMENT for length in lengths]
        segment = pad(source[:, begin:begin + SEGMENT + right], SEGMENT + right)
        output, _, states = model.infer(segment, torch.tensor(real) + right, states)
        outputs.append(output)
    out["infer"] = torch.cat(outputs, 1)
    for layer, (memory, key, value, past) in enumerate(states):
        seen = int(past[0][0])
        valid = min(case["max_memory_size"], -(-seen // SEGMENT)), min(case["left_context_length"], seen)
        for name, tensor, rows in (("memory", memory, valid[0]), ("key", key, valid[1]), ("value", value, valid[1])):
            if rows:
                out[f"state.{layer}.{name}"] = tensor[-rows:].transpose(0, 1)
    return {name: value.detach().to(dtype).contiguous() for name, value in out.items()}


def main():
    torch.manual_seed(20)
    torch.set_num_threads(1)
    model = Emformer(DIM, HEADS, FFN, LAYERS, SEGMENT)
    # Larger than torch's initial values, so that softmaxes are far from uniform and norms do something.
    weights = {name: (1 if name.endswith("norm_input.weight") else 0) + torch.randn_like(value) * (0.6 if value.ndim > 1 else 0.4)
               for name, value in model.state_dict().items()}
    source = torch.randn(BATCH, FRAMES, DIM)
    tensors = {f"weights.{name}": value for name, value in weights.items()} | {"input": source}
    table, conversion, rounding = [], torch.Tensor.float, 0.0
    for index, case in enumerate(cases()):
        for dtype in (torch.float32, torch.float64):
            original = run(case, weights, source, dtype)
            if dtype == torch.float64:
                torch.Tensor.float = lambda self: self
                exact = run(case, weights, source, dtype)
                torch.Tensor.float = conversion
                rounding = max([rounding] + [float((exact[name] - original[name]).abs().max()) for name in exact])
                original = exact
            kind = "f32" if dtype == torch.float32 else "f64"
            tensors |= {f"{index}.{kind}.{name}": value for name, value in original.items()}
        table.append(case | {"lengths": lengths_of(case)})
    save_file(tensors, HERE / "emformer.safetensors")
    sizes = dict(input_dim=DIM, num_heads=HEADS, ffn_dim=FFN, num_layers=LAYERS, segment_length=SEGMENT)
    lines = ",\n".join(json.dumps(case) for case in table)
    (HERE / "emformer.json").write_text(f'{{"sizes": {json.dumps(sizes)}, "cases": [\n{lines}\n]}}\n')
    print(f"{len(table)} cases; the f32 softmax of f64 models moves values by {rounding:.1e} at most")


if __name__ == "__main__":
    with torch.no_grad():
        main()
