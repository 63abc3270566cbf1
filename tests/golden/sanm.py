"""Golden data for SAN-M encoders, in f32 and f64: FunASR 1.4's SenseVoice encoder and, in chunks, its SANMEncoderChunkOpt.

``python sanm.py`` writes ``sanm.safetensors`` and ``sanm.json`` next to itself.

FunASR converts to f32 before every SenseVoice norm; for the f64 runs that conversion is switched off, so that they separate wrong logic from
rounding. In chunks, the original is given what our step begins with: nothing before, and the frames that a chunk looks ahead to.
"""

import itertools
import json
import sys
from pathlib import Path
from unittest.mock import MagicMock

import torch

# For reading sound, measuring errors and the like, which nothing here does.
for name in ("kaldiio", "librosa", "soundfile", "rapidfuzz", "rapidfuzz.distance", "editdistance", "jieba", "sentencepiece"):
    sys.modules.setdefault(name, MagicMock())

from funasr.models.scama.encoder import SANMEncoderChunkOpt
from funasr.models.sense_voice import model as sense_voice
from safetensors.torch import save_file

HERE = Path(__file__).parent
TYPES = {"f32": torch.float32, "f64": torch.float64}
IN, DIM, HEADS, UNITS = 12, 8, 2, 10


def random_weights(model):
    """Large enough that softmaxes are far from uniform, norms and biases included."""
    return {name: torch.randn_like(value) * (0.5 if value.ndim > 1 else 0.3) + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
            for name, value in model.state_dict().items()}


def load(model, weights, dtype):
    model.load_state_dict(weights)
    return model.to(dtype).eval()


def whole(index, blocks, tp_blocks, kernel, shift, queries):
    torch.manual_seed(index)
    sizes = dict(output_size=DIM, attention_heads=HEADS, linear_units=UNITS, num_blocks=blocks, tp_blocks=tp_blocks, kernel_size=kernel, sanm_shfit=shift)
    build = lambda: sense_voice.SenseVoiceEncoderSmall(IN, **sizes)
    weights = random_weights(build())
    embed, x, lengths = torch.randn(16, IN), torch.randn(3, 9, IN), [9, 6, 1]
    outputs = {}
    for kind, dtype in TYPES.items():
        # As SenseVoiceSmall.inference: the style in front of the speech, language, 1 and 2 in front of that.
        query = embed[queries].expand(3, -1, -1)
        source = torch.cat((query, x), 1).to(dtype)
        kept = sense_voice.LayerNorm.forward
        if dtype == torch.float64:
            sense_voice.LayerNorm.forward = torch.nn.LayerNorm.forward
        output, _ = load(build(), weights, dtype)(source, torch.tensor(lengths) + len(queries))
        sense_voice.LayerNorm.forward = kept
        outputs[kind] = output
    weights["embed.weight"] = embed
    return dict(input_size=IN, **sizes, embed_rows=16, queries=queries), weights, x, lengths, outputs


def chunks(index, blocks, kernel, shift, size, look_back):
    torch.manual_seed(100 + index)
    sizes = dict(output_size=DIM, attention_heads=HEADS, linear_units=UNITS, num_blocks=blocks, kernel_size=kernel, sanm_shfit=shift)
    build = lambda: SANMEncoderChunkOpt(IN, **sizes, input_layer="pe_online")
    weights = random_weights(build())
    before, frames, after = size
    steps = 5
    x = torch.randn(2, steps * frames + after, IN)
    outputs = {}
    for kind, dtype in TYPES.items():
        model = load(build(), weights, dtype)
        ahead = model.embed(x[:, :after].to(dtype) * DIM ** 0.5, {"start_idx": 0}) if after else x[:, :0].to(dtype)
        cache = dict(start_idx=after, feats=torch.cat((torch.zeros(2, before, IN, dtype=dtype), ahead), 1), chunk_size=list(size),
                     encoder_chunk_look_back=look_back, opt=None, tail_chunk=False)
        parts = []
        for step in range(steps):
            begin = after + step * frames
            output, _, _ = model.forward_chunk(x[:, begin:begin + frames].to(dtype).clone(), None, cache)
            parts.append(output[:, before:before + frames])
        outputs[kind] = torch.cat(parts, 1)
    config = dict(input_size=IN, **sizes, tp_norm=False, norm_epsilon=1e-12, chunk=dict(size=list(size), look_back=look_back))
    return config, weights, x, [steps * frames + after] * 2, outputs


def cases():
    for index, (queries, (blocks, tp_blocks), (kernel, shift)) in enumerate(itertools.product(
            ([], [4, 1, 2, 15]), ((1, 0), (3, 2)), ((5, 0), (4, 1), (11, 0), (11, 5), (1, 0)))):
        yield whole(index, blocks, tp_blocks, kernel, shift, queries)
    for index, ((size, look_back), (kernel, shift)) in enumerate(itertools.product(
            (((2, 4, 2), 0), ((2, 4, 2), 1), ((2, 4, 2), 4), ((0, 3, 1), 3), ((5, 2, 1), 1), ((3, 5, 3), 2), ((1, 2, 0), 0)), ((5, 0), (11, 3)))):
        yield chunks(index, 1 + index % 3, kernel, shift, size, look_back)


def main():
    torch.set_num_threads(1)
    tensors, table = {}, []
    for config, weights, x, lengths, outputs in cases():
        index = len(table)
        tensors |= {f"{index}.weights.{name}": value.contiguous() for name, value in weights.items()}
        tensors |= {f"{index}.input": x} | {f"{index}.{kind}": value.detach().contiguous() for kind, value in outputs.items()}
        table.append(dict(encoder=config, lengths=lengths))
    save_file(tensors, HERE / "sanm.safetensors")
    (HERE / "sanm.json").write_text("[\n" + ",\n".join(json.dumps(case) for case in table) + "\n]\n")
    print(len(table), "cases")


if __name__ == "__main__":
    with torch.no_grad():
        main()
