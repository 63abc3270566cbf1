"""Golden data for the recurrent family: what speechbrain itself computes, in f32 and in f64, with random weights.

``python speechbrain.py`` writes ``speechbrain.safetensors`` and ``speechbrain.json`` next to itself.
"""

import itertools
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
# This file has the package's name.
sys.path = [folder for folder in sys.path if Path(folder or ".").resolve() != HERE]

import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from speechbrain.nnet import RNN as original  # noqa: E402

INPUT, HIDDEN, BATCH, FRAMES = 4, 5, 3, 22
IGNORED = ("h_init", "drop_masks", "drop_mask_te", "num_batches_tracked")


def randomise(model, recurrent=0.6):
    """Weights that are larger than the initial ones, so that gates are far from 1/2; variances stay positive. The recurrent ones are to be
    small where nothing bounds a state: it would grow until only its first digits are worth comparing."""
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not name.endswith(IGNORED):
            torch.nn.init.normal_(value, 1.0 if name.endswith("norm.weight") else 0.0, recurrent if "_hh" in name or "u.weight" in name else 0.6)
            if name.endswith("running_var"):
                value.abs_().add_(0.2)
    return model.eval()


def weights_of(model):
    return {name: value.float() for name, value in model.state_dict().items() if not name.endswith(IGNORED)}


def encoders():
    """(class, constructor's arguments): every cell, both directions, one to three layers."""
    for cell, layers, both in itertools.product(("RNN", "LSTM", "GRU"), (1, 2, 3), (False, True)):
        yield cell, dict(num_layers=layers, bidirectional=both, bias=layers != 2) | ({"nonlinearity": "tanh"} if cell == "RNN" and both else {})
    activations = itertools.cycle(["tanh", "relu", "sin", "leaky_relu"])
    for norm, both, layers in itertools.product(("batchnorm", "layernorm"), (False, True), (1, 2)):
        for _ in range(2 if layers == 1 else 1):
            yield "LiGRU", dict(num_layers=layers, bidirectional=both, normalization=norm, nonlinearity=next(activations))
    for gate, both, zoneout in itertools.product((True, False), (False, True), (0.0, 0.25)):
        yield "QuasiRNN", dict(num_layers=2, bidirectional=both, output_gate=gate, zoneout=zoneout)


def config_of(cell, arguments):
    return dict(cell=cell.lower(), input_size=INPUT, hidden_size=HIDDEN, segment_length=4) | arguments


def flat(states):
    """The states a class returns: a tensor, or LSTM's two."""
    return dict(zip(("hidden", "cell"), states if isinstance(states, tuple) else (states,)))


def both_types(tensors, case, run):
    for kind, dtype in (("f32", torch.float32), ("f64", torch.float64)):
        tensors |= {f"{case}.{kind}.{name}": value.detach().clone().contiguous() for name, value in run(dtype).items()}


def encoder_cases(tensors):
    for index, (cell, arguments) in enumerate(encoders()):
        case = f"encoder{index}"
        torch.manual_seed(100 + index)
        extra = {} if cell == "QuasiRNN" else {"re_init": False}
        model = randomise(getattr(original, cell)(hidden_size=HIDDEN, input_shape=(BATCH, FRAMES, INPUT), **arguments, **extra),
                          0.6 if cell in ("LSTM", "GRU") or arguments.get("nonlinearity") == "tanh" else 0.2)
        directions = 1 + arguments["bidirectional"]
        plain = cell in ("RNN", "LSTM", "GRU")
        relative = torch.tensor([[13 / 22, 1.0, 0.3], [0.55, 0.2, 13 / 22]][index % 2]) if plain and index % 3 != 1 else None
        # QuasiRNN takes each layer's state for both directions' rows, one below the other.
        initial = {} if index % 4 else {"initial": torch.randn(arguments["num_layers"] * directions, BATCH, HIDDEN)}
        if initial and cell == "LSTM":
            initial["initial_cell"] = torch.randn_like(initial["initial"])
        features = torch.randn(BATCH, FRAMES, INPUT)

        def run(dtype):
            model.to(dtype)
            states = [value.to(dtype) for value in initial.values()]
            hidden = None if not states else tuple(states) if cell == "LSTM" else states[0]
            if cell == "QuasiRNN" and hidden is not None:
                hidden = hidden.reshape(arguments["num_layers"], directions * BATCH, HIDDEN)
            more = {"lengths": relative} if relative is not None else {}
            output, states = model(features.to(dtype), hidden, **more)
            return {"output": output} | flat(states)

        given = {"features": features} | initial | ({"relative_lengths": relative} if relative is not None else {})
        both_types(tensors, case, run)
        tensors |= {f"{case}.{name}": value for name, value in given.items()}
        tensors |= {f"{case}.weights.{name}": value for name, value in weights_of(model.float()).items()}
        yield dict(case=case, config=config_of(cell, arguments))


def cell_cases(tensors):
    for index, (cell, layers, bias) in enumerate(itertools.product(("RNN", "LSTM", "GRU"), (1, 3), (True, False))):
        case = f"cell{index}"
        torch.manual_seed(200 + index)
        model = randomise(getattr(original, f"{cell}Cell")(hidden_size=HIDDEN, input_size=INPUT, num_layers=layers, bias=bias, re_init=False))
        x = torch.randn(2, BATCH, INPUT)

        def run(dtype):
            model.to(dtype)
            _, states = model(x[0].to(dtype))
            output, after = model(x[1].to(dtype), states)
            return {"output": output} | flat(after) | {f"between_{name}": value for name, value in flat(states).items()}

        both_types(tensors, case, run)
        tensors |= {f"{case}.input": x} | {f"{case}.weights.{name}": value for name, value in weights_of(model.float()).items()}
        yield dict(case=case, config=dict(cell=cell.lower(), input_size=INPUT, hidden_size=HIDDEN, num_layers=layers, bias=bias))


def decoder_cases(tensors):
    conversion = torch.Tensor.float
    for index, (rnn, attention, layers) in enumerate(itertools.product(("rnn", "gru", "lstm"), ("content", "location", "keyvalue"), (1, 2))):
        case = f"decoder{index}"
        torch.manual_seed(300 + index)
        sizes = dict(hidden_size=HIDDEN, attn_dim=6, num_layers=layers, enc_dim=7, input_size=3, scaling=1.5 if index % 2 else 1.0)
        sizes |= dict(channels=3, kernel_size=2) if attention == "location" else {}
        model = randomise(original.AttentionalRNNDecoder(rnn, attention, bias=True, re_init=False, nonlinearity="relu", **sizes))
        inputs, encoded, relative = torch.randn(BATCH, 5, 3), torch.randn(BATCH, 9, 7), torch.tensor([0.5, 1.0, 0.61])

        def run(dtype):
            model.to(dtype)
            # The first context takes torch's default type, and the first weights of the location-aware attention go through `float`.
            torch.set_default_dtype(dtype)
            torch.Tensor.float = lambda tensor: tensor.to(dtype)
            output, weights = model(inputs.to(dtype), encoded.to(dtype), relative)
            torch.Tensor.float = conversion
            torch.set_default_dtype(torch.float32)
            return {"output": output, "attention": weights.reshape(BATCH, 5, 9)}

        both_types(tensors, case, run)
        tensors |= {f"{case}.inputs": inputs, f"{case}.encoder_output": encoded, f"{case}.relative_lengths": relative}
        tensors |= {f"{case}.weights.{name}": value for name, value in weights_of(model.float()).items()}
        yield dict(case=case, config=dict(rnn_type=rnn, attn_type=attention, nonlinearity="relu", bias=True) | sizes)


def main():
    torch.set_num_threads(1)
    tensors = {}
    table = {name: list(cases(tensors)) for name, cases in (("encoders", encoder_cases), ("cells", cell_cases), ("decoders", decoder_cases))}
    save_file({name: value.detach().clone().contiguous() for name, value in tensors.items()}, HERE / "speechbrain.safetensors")
    rows = [f'"{name}": [\n' + ",\n".join(json.dumps(case) for case in cases) + "\n]" for name, cases in table.items()]
    (HERE / "speechbrain.json").write_text("{" + ",\n".join(rows) + "}\n")


if __name__ == "__main__":
    with torch.no_grad():
        main()
