"""Golden data for SkiM: what espnet2 itself computes, in f32 and in f64, with random weights.

``python skim.py`` writes ``skim.safetensors`` and ``skim.json`` next to itself. Needs only torch and the package ``espnet`` without its
dependencies.
"""

import itertools
import json
from pathlib import Path

import torch
from espnet2.enh.layers.skim import MemLSTM, SegLSTM, SkiM
from safetensors.torch import save_file

HERE = Path(__file__).parent
INPUT, HIDDEN, OUTPUT, BATCH, SEGMENT = 4, 3, 5, 2, 6


def randomise(model):
    for name, value in model.state_dict().items():
        torch.nn.init.normal_(value, 1.0 if name.endswith("gamma") else 0.0, 0.5)
    return model.eval()


def both_types(tensors, case, model, given, run):
    tensors |= {f"{case}.weights.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"{case}.{name}": value for name, value in given.items()}
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    for kind, dtype in (("f32", torch.float32), ("f64", torch.float64)):
        model.to(dtype).load_state_dict({name: value.to(dtype) for name, value in weights.items()})
        results = run(*(value.to(dtype) for value in given.values()))
        tensors |= {f"{case}.{kind}.{name}": value.detach().clone().contiguous() for name, value in results.items()}
    model.float()


def skim_cases(tensors):
    """Causal ones in both of the original's modes; the others over lengths that are multiples of the segment and that are not."""
    causal = [dict(bidirectional=False, mem_type=mem, norm_type="cLN", seg_overlap=False, frames=frames)
              for mem, frames in itertools.product(("hc", "h", "c", "id"), (6, 17, 24))]
    whole = [dict(bidirectional=both, mem_type=mem, norm_type=norm, seg_overlap=overlap, frames=frames)
             for (both, norm), mem, (overlap, frames) in itertools.product(
                 ((True, "gLN"), (False, "cLN"), (True, "cLN")), ("hc", "id", None), ((False, 24), (False, 17), (True, 24), (True, 17), (True, 4)))]
    for index, case in enumerate(causal + whole[::2] + [whole[1]]):
        frames, sizes = case.pop("frames"), dict(num_blocks=1 + index % 3 if case["mem_type"] else 2, segment_size=SEGMENT)
        torch.manual_seed(400 + index)
        model = randomise(SkiM(INPUT, HIDDEN, OUTPUT, **sizes, **case))
        features, is_causal = torch.randn(BATCH, frames, INPUT), index < len(causal)

        def run(features):
            results = {"output": model(features)}
            if is_causal:
                states, outputs = None, []
                for frame in range(frames):
                    output, states = model.forward_stream(features[:, frame:frame + 1], states)
                    outputs.append(output)
                results["stream"] = torch.cat(outputs, 1)
            return results

        both_types(tensors, f"skim{index}", model, {"features": features}, run)
        yield dict(case=f"skim{index}", config=dict(input_size=INPUT, hidden_size=HIDDEN, output_size=OUTPUT) | sizes | case)


def memory_cases(tensors):
    for index, (mem, both, norm) in enumerate(itertools.product(("hc", "h", "c", "id"), (False, True), ("cLN", "gLN"))):
        torch.manual_seed(500 + index)
        model = randomise(MemLSTM(HIDDEN, bidirectional=both, mem_type=mem, norm_type=norm))
        segments = 4
        given = {name: torch.randn(1 + both, BATCH * segments, HIDDEN) for name in ("hidden", "cell")}

        def run(hidden, cell):
            results = dict(zip(("hidden", "cell"), model((hidden, cell), segments)))
            if not both:
                state = [None, None]
                for step in range(2):
                    one = tuple(tensor[:, step * BATCH:(step + 1) * BATCH] for tensor in (hidden, cell))
                    found, state = model.forward_one_step(one, state)
                    results |= dict(zip((f"step{step}_hidden", f"step{step}_cell"), found))
                for net, states in zip(("h_net", "c_net"), state):
                    results |= dict(zip((f"{net}_hidden", f"{net}_cell"), states or ()))
            return results

        both_types(tensors, f"memory{index}", model, given, run)
        yield dict(case=f"memory{index}", config=dict(hidden_size=HIDDEN, bidirectional=both, mem_type=mem, norm_type=norm))


def segment_cases(tensors):
    for index, (both, norm) in enumerate(itertools.product((False, True), ("cLN", "gLN"))):
        torch.manual_seed(600 + index)
        model = randomise(SegLSTM(INPUT, HIDDEN, bidirectional=both, norm_type=norm))
        given = {"features": torch.randn(BATCH, 7, INPUT)} | {name: torch.randn(1 + both, BATCH, HIDDEN) for name in ("hidden", "cell")}

        def run(features, hidden, cell):
            fresh, _ = model(features, None)
            output, states = model(features, (hidden, cell))
            return {"fresh": fresh, "output": output} | dict(zip(("hidden", "cell"), states))

        both_types(tensors, f"segment{index}", model, given, run)
        yield dict(case=f"segment{index}", config=dict(input_size=INPUT, hidden_size=HIDDEN, bidirectional=both, norm_type=norm))


def main():
    torch.set_num_threads(1)
    tensors = {}
    table = {name: list(cases(tensors)) for name, cases in (("skim", skim_cases), ("memory", memory_cases), ("segment", segment_cases))}
    save_file({name: value.detach().clone().contiguous() for name, value in tensors.items()}, HERE / "skim.safetensors")
    rows = [f'"{name}": [\n' + ",\n".join(json.dumps(case) for case in cases) + "\n]" for name, cases in table.items()]
    (HERE / "skim.json").write_text("{" + ",\n".join(rows) + "}\n")


if __name__ == "__main__":
    with torch.no_grad():
        main()
