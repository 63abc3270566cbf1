"""Golden data for the Emformer RNN-T: what torchaudio 2.11 itself computes on small random models.

``python rnnt.py`` writes ``rnnt/``: ``rnnt.json`` and ``rnnt.safetensors`` (weights, inputs, outputs and states of every network in f32 and
f64, token lists and scores of the beam search, whole and streamed, and the streaming features), and checkpoints as users have them, with the
SentencePiece model and global stats of the bundle in small.

torchaudio converts attention scores to f32 before the softmax even in an f64 model; for the f64 runs that one conversion is switched off.
"""

import io
import json
import math
from pathlib import Path

import sentencepiece
import torch
import torchaudio
from safetensors.torch import save_file
from torchaudio.models import RNNTBeamSearch
from torchaudio.models.rnnt import emformer_rnnt_model
from torchaudio.pipelines.rnnt_pipeline import _gain, _piecewise_linear_log

OUT = Path(__file__).parent / "rnnt"
BEAM, WINDOWS = 3, 4
SIZES = dict(input_dim=8, encoding_dim=12, num_symbols=11, time_reduction_input_dim=5, time_reduction_stride=4, transformer_num_heads=2,
             transformer_ffn_dim=18, transformer_num_layers=2, symbol_embedding_dim=9, num_lstm_layers=2, lstm_layer_norm_epsilon=1e-3)
VARIANTS = [
    dict(segment_length=16, right_context_length=4, transformer_left_context_length=6, transformer_max_memory_size=0,
         transformer_activation="gelu", transformer_tanh_on_mem=True, lstm_layer_norm=True),
    dict(segment_length=8, right_context_length=8, transformer_left_context_length=3, transformer_max_memory_size=2,
         transformer_activation="relu", transformer_tanh_on_mem=True, lstm_layer_norm=False),
    dict(segment_length=8, right_context_length=0, transformer_left_context_length=0, transformer_max_memory_size=1,
         transformer_activation="silu", transformer_tanh_on_mem=False, lstm_layer_norm=True),
    dict(segment_length=4, right_context_length=4, transformer_left_context_length=30, transformer_max_memory_size=0,
         transformer_activation="gelu", transformer_tanh_on_mem=True, lstm_layer_norm=True),
]


def build(variant, seed):
    torch.manual_seed(seed)
    model = emformer_rnnt_model(**SIZES, **variant, transformer_dropout=0.1, transformer_weight_init_scale_strategy="depthwise",
                                lstm_dropout=0.3)
    with torch.no_grad():
        for name, value in model.named_parameters():
            scale = 1 if name.endswith("norm.weight") or name.endswith("norm_input.weight") or name.endswith("norm_output.weight") else 0
            value.copy_(scale + torch.randn_like(value) * (0.5 if value.ndim > 1 else 0.3))
        # Without a liking for blanks a random model speaks at every frame until it is stopped.
        model.joiner.linear.bias[-1] += 2.5 if seed > 41 else 0.5
    return model.eval()


def valid_states(states, variant):
    """The rows of torchaudio's buffers that hold something."""
    out = {}
    segment = variant["segment_length"] // SIZES["time_reduction_stride"]
    for layer, (memory, key, value, past) in enumerate(states):
        seen = int(past[0][0])
        rows = (min(variant["transformer_max_memory_size"], -(-seen // segment)), min(variant["transformer_left_context_length"], seen))
        for name, tensor, count in (("memory", memory, rows[0]), ("key", key, rows[1]), ("value", value, rows[1])):
            if count:
                out[f"state.{layer}.{name}"] = tensor[-count:].transpose(0, 1)
    return out


def networks(model, variant, source, ragged, tokens, dtype):
    length, right = source.shape[1] - variant["right_context_length"], variant["right_context_length"]
    lengths = torch.tensor([length, length - ragged])
    out = {}
    out["transcribe"], out["transcribe.lengths"] = model.transcribe(source, lengths)
    states, pieces = None, []
    for begin in range(0, length - variant["segment_length"] + 1, variant["segment_length"]):
        window = source[:, begin:begin + variant["segment_length"] + right]
        encoded, _, states = model.transcribe_streaming(window, torch.full((2,), window.shape[1]), states)
        pieces.append(encoded)
    out["stream"] = torch.cat(pieces, 1)
    out |= {f"stream.{name}": value for name, value in valid_states(states, variant).items()}
    first, _, state = model.predict(tokens[:, :3], torch.tensor([3, 3]), None)
    second, _, state = model.predict(tokens[:, 3:], torch.tensor([2, 2]), state)
    out["predict"] = torch.cat([first, second], 1)
    for layer, (h, c) in enumerate(state):
        out[f"predict.state.{layer}.h"], out[f"predict.state.{layer}.c"] = h, c
    out["join"], _, _ = model.join(out["transcribe"], lengths, out["predict"], torch.tensor([5, 5]))
    return {name: value.detach().clone().contiguous() for name, value in out.items()}


def hypotheses(found):
    return [dict(tokens=tokens[1:], score=score) for tokens, _, _, score in found]


def searches(model, variant, source):
    """Token lists of the whole utterance and of its windows, the hypotheses carried."""
    search = RNNTBeamSearch(model, SIZES["num_symbols"] - 1)
    one = source[:1]
    whole = search(one, torch.tensor([one.shape[1]]), BEAM)
    # The hypotheses of every window, so that the carrying itself is seen.
    state, carried, streamed = None, None, []
    length = variant["segment_length"] + variant["right_context_length"]
    for begin in range(0, one.shape[1] - length + 1, variant["segment_length"]):
        carried, state = search.infer(one[:, begin:begin + length], torch.tensor([length]), BEAM, state=state, hypothesis=carried)
        streamed.append(hypotheses(carried))
    cool = RNNTBeamSearch(model, SIZES["num_symbols"] - 1, temperature=1.7, step_max_tokens=2)
    return dict(whole=hypotheses(whole), streamed=streamed, cool=hypotheses(cool(one, torch.tensor([one.shape[1]]), BEAM + 2)))


def feature_windows(stats):
    """The bundle's streaming extractor, its global stats put in, over a tone that fades into noise."""
    segment, window = 16 * 160, 20 * 160
    time = torch.arange(WINDOWS * segment + 4 * 160) / 16_000
    torch.manual_seed(7)
    audio = 0.3 * torch.sin(2 * math.pi * (300 + 900 * time) * time) * (1 - time) + 0.02 * torch.randn_like(time) * time
    audio = (audio * 32768).round().clamp(-32768, 32767).to(torch.int16)
    mel = torchaudio.transforms.MelSpectrogram(sample_rate=16_000, n_fft=400, n_mels=80, hop_length=160)
    windows, unclear = [], []
    for begin in range(0, WINDOWS * segment, segment):
        x = mel(audio[begin:begin + window].float() / 32768).transpose(1, 0) * _gain
        near = ((x - math.e).abs() < 1e-3 * x) | ((x - math.e ** math.e).abs() < 1e-3 * x)
        windows.append((_piecewise_linear_log(x) - stats["mean"]) * stats["invstddev"])
        unclear.append(near)
    return dict(audio=audio, windows=torch.stack(windows)[:, :20].contiguous(),
                unclear=torch.stack(unclear)[:, :20].to(torch.uint8).contiguous())


def sentencepiece_model():
    model = io.BytesIO()
    text = ["ab ba bab abba aab bb ab ab ba", "abab baba bab ab aa bb", "ba ba ab bab"]
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(text), model_writer=model, vocab_size=10, model_type="bpe",
                                             normalization_rule_name="identity", minloglevel=2)
    return model.getvalue()


def checkpoints(model):
    """The same weights as a training program leaves them, and in forms that must be refused."""
    weights = model.state_dict()
    torch.save(weights, OUT / "rnnt.pt")
    lightning = {f"model.{name}": torch.nn.Parameter(value) for name, value in weights.items()}
    name = "model.joiner.linear.weight"
    lightning[name] = lightning[name].detach().t().contiguous().t()
    torch.save({"epoch": 3, "state_dict": lightning, "optimizer_states": [{"lr": 1e-3}]}, OUT / "lightning.pt")
    torch.save(torch.nn.Linear(2, 2).state_dict(), OUT / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save(torch.nn.Linear(2, 2), OUT / "whole_module.pt")
    torch.jit.script(torch.nn.Linear(2, 2)).save(OUT / "script.pt")
    emformer = {name.removeprefix("transcriber.transformer."): value for name, value in weights.items() if ".transformer." in name}
    torch.save(emformer, OUT / "emformer.pt")


def main():
    torch.set_num_threads(1)
    OUT.mkdir(exist_ok=True)
    table, tensors, conversion = [], {}, torch.Tensor.float
    for index, variant in enumerate(VARIANTS):
        model = build(variant, 40 + index)
        tensors |= {f"{index}.weights.{name}": value.clone() for name, value in model.state_dict().items()}
        frames = 6 * variant["segment_length"] + (3 if index == 2 else 0)
        source = torch.randn(2, frames + variant["right_context_length"], SIZES["input_dim"])
        ragged = 4 if index % 2 == 0 else 0
        tokens = torch.randint(0, SIZES["num_symbols"], (2, 5))
        tensors |= {f"{index}.source": source, f"{index}.tokens": tokens}
        found = searches(model, variant, source)
        for dtype, kind in ((torch.float32, "f32"), (torch.float64, "f64")):
            if dtype == torch.float64:
                torch.Tensor.float = lambda self: self
            out = networks(model.to(dtype), variant, source.to(dtype), ragged, tokens, dtype)
            torch.Tensor.float = conversion
            tensors |= {f"{index}.{kind}.{name}": value for name, value in out.items()}
        table.append(variant | dict(ragged=ragged, searches=found))
    torch.manual_seed(11)
    stats = dict(mean=torch.randn(80) * 2 + 8, invstddev=torch.rand(80) + 0.2)
    tensors |= {f"features.{name}": value for name, value in feature_windows(stats).items()}
    save_file(tensors, OUT / "rnnt.safetensors")
    (OUT / "global_stats.json").write_text(json.dumps({name: value.tolist() for name, value in stats.items()}))
    (OUT / "tokens.model").write_bytes(sentencepiece_model())
    checkpoints(build(VARIANTS[0], 40))
    rows = ",\n".join(json.dumps(row) for row in table)
    (OUT / "rnnt.json").write_text(f'{{"sizes": {json.dumps(SIZES)}, "beam": {BEAM}, "variants": [\n{rows}\n]}}\n')
    for row in table:
        print([len(h["tokens"]) for h in row["searches"]["whole"]], [len(h["tokens"]) for h in row["searches"]["streamed"][-1]])


if __name__ == "__main__":
    with torch.no_grad():
        main()
