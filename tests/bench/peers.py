"""One program that Waxwing is compared with, as a process that measures when it is told to.

``python peers.py torchaudio SIZE`` and ``python peers.py onnxruntime SIZE MODEL.onnx`` read one JSON object a line from standard input,
``{"threads": 1, "batch": 8, "seconds": 1.5}``, and answer each with ``{"streams": …}``: sessions of equal age with full left context that
so many threads held in real time. Between two questions they wait and use no processor.

``python peers.py export SIZE MODEL.onnx`` writes one step of torchaudio's ``infer`` as a graph, for any batch: traced by ``torch.onnx.export`` with the
states of sessions whose rings are full, so that no mask depends on an age, and checked against ``infer`` itself. ``python peers.py quantise MODEL.onnx
OUT.onnx`` makes onnxruntime's dynamic int8 of it, weights per channel.
"""

import json
import sys
import time
import warnings
from functools import partial

import numpy
import torch
from torchaudio.models import emformer

import sizes


class Step(torch.nn.Module):
    """``infer`` of full sessions with its states as plain tensors, three for each layer: memory, keys, values."""

    def __init__(self, model, frames):
        super().__init__()
        self.model, self.frames = model, frames
        for layer in model.emformer_layers:
            # What is unpacked of full rings is all of them; the original's arithmetic on ages would be traced as well.
            layer._unpack_state = lambda state: state[:3]
            if layer.max_memory_size == 0:
                # Nothing is masked either, and a graph cannot write to no elements of a mask.
                layer.attention.infer = partial(infer_unmasked, layer.attention)
                layer.attention._gen_attention_probs = lambda scores, *_: torch.softmax(scores, -1)

    def forward(self, window, *flat):
        states = [[*flat[3 * layer:3 * layer + 3], torch.zeros(1, 1)] for layer in range(len(flat) // 3)]
        output, _, states = self.model.infer(window, torch.full((1,), self.frames), states)
        return output, *(tensor for state in states for tensor in state[:3])


def infer_unmasked(attention, utterance, right_context, mems, **others):
    """A layer's attention without memory."""
    output, mems, key, value = attention._forward_impl(utterance=utterance, right_context=right_context, mems=mems, attention_mask=None, **others)
    return output, mems, key[right_context.size(0):], value[right_context.size(0):]


def without_empty(tensors, dim=0):
    """``torch.cat`` that leaves out what has no elements: a graph cannot join a flat empty tensor, as torch can."""
    full = [tensor for tensor in tensors if tensor.numel()]
    return CAT(full, dim) if full else tensors[0]


CAT = torch.cat


def export(name, path):
    model = sizes.make(name)
    states = sizes.old_states(model, name, 2)
    flat = [tensor for state in states for tensor in state[:3]]
    names = [f"state.{index}" for index in range(len(flat))]
    outputs = ["output", *(f"next.{index}" for index in range(len(flat)))]
    axes = {"window": {0: "batch"}, "output": {0: "batch"}} | {key: {1: "batch"} for key in names + outputs[1:]}
    example = torch.randn(2, sizes.window(name), sizes.SIZES[name]["input_dim"])
    # All windows are whole, so nothing is masked; and 32-bit lengths among 64-bit shapes would make an invalid graph.
    emformer._gen_padding_mask, whole = (lambda *_, **__: None), emformer._gen_padding_mask
    torch.Tensor.int, conversion = torch.Tensor.long, torch.Tensor.int
    torch.cat = without_empty
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Step(sizes.make(name), sizes.window(name)), (example, *flat), path, dynamo=False, opset_version=17, do_constant_folding=True,
                          input_names=["window", *names], output_names=outputs, dynamic_axes=axes)
    emformer._gen_padding_mask, torch.Tensor.int = whole, conversion
    torch.cat = CAT

    import onnxruntime
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    batch = 3
    states = sizes.old_states(model, name, batch)
    example = torch.randn(batch, sizes.window(name), sizes.SIZES[name]["input_dim"])
    inputs = [example, *(tensor for state in states for tensor in state[:3])]
    known = {value.name for value in session.get_inputs()}
    named = {key: value.numpy() for key, value in zip(["window", *names], inputs) if key in known}
    found = session.run(["output"], named)[0]
    expected = model.infer(example, torch.full((batch,), example.shape[1]), states)[0].numpy()
    print(json.dumps({"deviation": float(numpy.abs(found - expected).max())}), flush=True)


def quantise(source, target):
    from onnxruntime.quantization import QuantType, quantize_dynamic
    quantize_dynamic(source, target, weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=["MatMul", "Gemm"])
    print("{}", flush=True)


class Torchaudio:
    def __init__(self, name):
        self.name, self.model, self.batch = name, sizes.make(name), 0

    def prepare(self, threads, batch):
        torch.set_num_threads(threads)
        if batch != self.batch:
            self.batch, self.states = batch, sizes.old_states(self.model, self.name, batch)
            self.window = torch.randn(batch, sizes.window(self.name), sizes.SIZES[self.name]["input_dim"])
            self.lengths = torch.full((batch,), self.window.shape[1])

    def step(self):
        _, _, self.states = self.model.infer(self.window, self.lengths, self.states)


class Onnxruntime:
    """States stay in the program's own memory: what a step gives is bound as what the next one takes, without a copy."""

    def __init__(self, name, path):
        self.name, self.path, self.prepared = name, path, None

    def prepare(self, threads, batch):
        if self.prepared == (threads, batch):
            return
        import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        # Between measurements nothing may spin beside another program.
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if threads > 1 else "0")
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self.session = onnxruntime.InferenceSession(self.path, options, providers=["CPUExecutionProvider"])
        self.inputs = [value.name for value in self.session.get_inputs()]
        self.outputs = [value.name for value in self.session.get_outputs()]
        model = sizes.make(self.name)
        flat = [tensor for state in sizes.old_states(model, self.name, batch) for tensor in state[:3]]
        window = torch.randn(batch, sizes.window(self.name), sizes.SIZES[self.name]["input_dim"])
        named = {f"state.{index}": tensor for index, tensor in enumerate(flat)} | {"window": window}
        self.values = {key: onnxruntime.OrtValue.ortvalue_from_numpy(named[key].contiguous().numpy()) for key in self.inputs}
        self.prepared = threads, batch

    def step(self):
        binding = self.session.io_binding()
        for key, value in self.values.items():
            binding.bind_ortvalue_input(key, value)
        for key in self.outputs:
            binding.bind_output(key, "cpu")
        self.session.run_with_iobinding(binding)
        for key, value in zip(self.outputs, binding.get_outputs()):
            state = key.replace("next.", "state.")
            if state in self.values:
                self.values[state] = value


def serve(peer, name):
    seconds_of_step = sizes.segment_seconds(name)
    for line in sys.stdin:
        question = json.loads(line)
        peer.prepare(question["threads"], question["batch"])
        peer.step()
        begin, steps = time.perf_counter(), 0
        while time.perf_counter() - begin < question["seconds"] or steps == 0:
            peer.step()
            steps += 1
        streams = steps * question["batch"] * seconds_of_step / (time.perf_counter() - begin)
        print(json.dumps({"streams": streams}), flush=True)


def product_peak():
    """Multiply-adds a second of torch's own matrix product, one thread."""
    torch.set_num_threads(1)
    size, count, best = 768, 6, 0.0
    left, right = torch.randn(size, size), torch.randn(size, size)
    for _ in range(8):
        begin = time.perf_counter()
        for _ in range(count):
            torch.mm(left, right)
        best = max(best, count * size**3 / (time.perf_counter() - begin))
    print(json.dumps({"peak": best}), flush=True)


if __name__ == "__main__":
    with torch.inference_mode(sys.argv[1] != "export"), torch.no_grad():
        match sys.argv[1:]:
            case ["torchaudio", name]:
                serve(Torchaudio(name), name)
            case ["onnxruntime", name, path]:
                serve(Onnxruntime(name, path), name)
            case ["export", name, path]:
                export(name, path)
            case ["quantise", source, target]:
                quantise(source, target)
            case ["peak"]:
                product_peak()
            case other:
                sys.exit(f"peers.py: unknown request {other}")
