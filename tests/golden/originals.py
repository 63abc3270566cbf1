"""Fresh random originals with what they compute, for `tests/parity` and `tests/golden/checkpoints.py`.

Every function of ``KINDS`` draws sizes and weights of one kind that `waxwing convert` knows and gives a `Case`. Wanted are the packages of
``requirements.txt``; the two originals that are no packages are read from public clones (``clones``), run and never copied.
"""

import subprocess
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import MagicMock

HERE = Path(__file__).resolve().parent
# `speechbrain.py` and others here have the names of packages.
sys.path = [folder for folder in sys.path if Path(folder or ".").resolve() != HERE]
# For reading sound, measuring errors and the like, which nothing here does.
for name in ("kaldiio", "librosa", "soundfile", "rapidfuzz", "rapidfuzz.distance", "editdistance", "jieba", "sentencepiece"):
    sys.modules.setdefault(name, MagicMock())

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402


@dataclass
class Case:
    """A checkpoint and what its original computes with it."""

    kind: str
    weights: dict
    # What shapes do not tell, and files beside the checkpoint: {"normalisation": text}.
    settings: dict
    files: dict = field(default_factory=dict)
    # For `encode`: features (batch, frames + look-ahead, values), lengths without the look-ahead, and by name what is expected of each item.
    features: torch.Tensor = None
    lengths: list = None
    encoded: dict = field(default_factory=dict)
    streams: bool = False
    # For `run`: (inputs, outputs), by name.
    runs: list = field(default_factory=list)


def randomise(model, scale=0.5):
    """Larger than initial values, so that softmaxes and gates are far from even and norms do something."""
    for name, value in model.state_dict().items():
        if not value.is_floating_point() or name.endswith(("h_init", "drop_mask_te")):
            continue
        is_norm = ("norm" in name or name.endswith((".1.weight", ".1.bias", "gamma", "beta"))) and value.ndim < 4
        centre = 1.0 if is_norm and name.endswith(("weight", "gamma")) else 0.0
        value.copy_(centre + torch.randn(value.shape) * (scale if value.ndim > 1 and not is_norm else 0.3))
        if name.endswith("running_var"):
            value.abs_().add_(0.2)
    return model.eval()


def weights_of(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def original(clone, commit, path, name):
    """A file of a commit, as a module."""
    source = subprocess.run(["git", "-C", str(clone), "show", f"{commit}:{path}"], check=True, capture_output=True, text=True).stdout
    made = types.ModuleType(name)
    exec(compile(source, f"{commit}:{path}", "exec"), made.__dict__)
    return made


def fsmn(draw, dtype, clones):
    """d5555/FSMN, today's and, for the older table of cvFSMN, at 172dd9e."""
    cell, older = draw.choice([("sFSMNCell", False), ("vFSMNCell", False), ("csFSMNCell", False), ("cvFSMNCell", False), ("cvFSMNCell", True)])
    source = original(clones["fsmn"], "172dd9e" if older else "65d278d", "FSMN.py", "FSMN")
    memory, both, layers = draw.choice([1, 2, 3, 5, 9] + [0] * (not older)), draw.random() < 0.5, draw.randint(1, 3)
    # 32-bit originals of a few layers with lags as weights grow fast.
    activation = draw.choice(["relu", "gelu"])
    model = source.FSMN(memory, draw.randint(2, 6), draw.randint(3, 8), draw.randint(2, 6), layers, getattr(source, cell), draw.randint(3, 8),
                        activation=getattr(F, activation), bidirectional=both, dtype=dtype).to(dtype)
    randomise(model, 0.4)
    width, batch, frames, ahead = model.fsmn_layers[0]._W1.shape[0], draw.randint(1, 3), draw.randint(1, 14), both * memory * layers
    features = torch.randn(batch, frames + ahead, width)
    mask = torch.rand(batch, frames + ahead) < 0.8
    masked, whole = model(features, mask), model(features, None)
    settings = {"memory_size": memory, "bidirectional": both, "activation": activation}
    if cell == "vFSMNCell" or (cell == "cvFSMNCell" and not older):
        # The table tells it; a run of the original has put ones at the end of cvFSMN's.
        del settings["memory_size"]
    return Case("fsmn", weights_of(model), settings, features=features, lengths=[frames] * batch, encoded={"output": [row[:frames] for row in whole]},
                streams=True, runs=[({"input": features}, {"output": whole}),
                                    ({"input": features, "pad_mask": mask.to(torch.uint8)}, {"output": masked})])


def mvn(shift, scale):
    """Kaldi's am.mvn."""
    numbers = lambda values: " ".join(f"{value:.6f}" for value in values.tolist())
    size = len(shift)
    return (f"<Nnet>\n<Splice> {size} {size}\n[ 0 ]\n<AddShift> {size} {size}\n<LearnRateCoef> 0 [ {numbers(shift)} ]\n"
            f"<Rescale> {size} {size}\n<LearnRateCoef> 0 [ {numbers(scale)} ]\n</Nnet>\n")


def funasr_fsmn(draw, dtype, rorder, input_dim, use_softmax):
    from funasr.models.fsmn_vad_streaming.encoder import FSMN

    sizes = dict(input_dim=input_dim, input_affine_dim=draw.randint(3, 8), fsmn_layers=draw.randint(1, 3), linear_dim=draw.randint(3, 8),
                 proj_dim=draw.randint(3, 8), lorder=draw.randint(1, 6), rorder=rorder, lstride=draw.randint(1, 2),
                 rstride=draw.randint(1, 2) if rorder else 0, output_affine_dim=draw.randint(3, 8), output_dim=draw.randint(3, 8),
                 use_softmax=use_softmax)
    model = randomise(FSMN(**sizes).to(dtype))
    batch, frames, ahead = draw.randint(1, 3), draw.randint(1, 16), sizes["fsmn_layers"] * rorder * sizes["rstride"]
    features = torch.randn(batch, frames + ahead, input_dim)
    return sizes, model, features, frames


def fsmn_vad(draw, dtype, clones):
    stack = draw.randint(1, 3)
    sizes, model, features, frames = funasr_fsmn(draw, dtype, 0, 80 * stack, True)
    whole = model(features, None)
    config = (f"frontend_conf:\n    fs: 16000\n    window: hamming\n    n_mels: 80\n    lfr_m: {stack}\n    lfr_n: 1\n\nmodel_conf:\n    detect_mode: 1 \n"
              "    max_end_silence_time: 700\n    sil_pdf_ids: [0]\n    decibel_thres: -100.0\nencoder: FSMN\nencoder_conf:\n"
              + "".join(f"    {name}: {value}\n" for name, value in sizes.items()))
    files = {"normalisation": mvn(torch.randn(80 * stack), torch.rand(80 * stack) + 0.1), "original_config": config}
    weights = {f"encoder.{name}": value for name, value in weights_of(model).items()}
    return Case("fsmn-vad", weights, {}, files, features, [frames] * len(features), {"output": list(whole)}, True,
                [({"input": features}, {"output": whole})])


def fsmn_ctc(draw, dtype, clones):
    sizes, model, features, frames = funasr_fsmn(draw, dtype, draw.randint(0, 2), draw.randint(3, 8), False)
    log_probs = torch.log_softmax(model(features, None), -1)
    settings = {name: sizes[name] for name in ("lstride", "rstride")}
    return Case("fsmn-ctc", {f"encoder.{name}": value for name, value in weights_of(model).items()}, settings, {}, features, [frames] * len(features),
                {"log_probs": [row[:frames] for row in log_probs]}, True, [({"input": features}, {"log_probs": log_probs})])


def sense_voice(draw, dtype, clones):
    from funasr.models.sense_voice import model as source

    heads = draw.choice([1, 2, 4])
    sizes = dict(output_size=heads * draw.randint(2, 4), attention_heads=heads, linear_units=draw.randint(4, 12), num_blocks=draw.randint(1, 3),
                 tp_blocks=draw.randint(0, 2), kernel_size=draw.choice([1, 5, 11]), sanm_shfit=0)
    width, classes = 2 * draw.randint(2, 6), draw.randint(3, 9)
    model = torch.nn.Module()
    model.encoder = source.SenseVoiceEncoderSmall(width, **sizes)
    model.ctc = torch.nn.Module()
    model.ctc.ctc_lo = torch.nn.Linear(sizes["output_size"], classes)
    model.embed = torch.nn.Embedding(16, width)
    model = randomise(model.to(dtype))
    batch, frames = draw.randint(1, 3), draw.randint(1, 12)
    lengths = [frames] + [draw.randint(1, frames) for _ in range(batch - 1)]
    features, queries = torch.randn(batch, frames, width), [0, 1, 2, 15]
    query = model.embed.weight[queries].expand(batch, -1, -1)
    # FunASR converts to f32 before every norm; in f64 that is switched off, so that it shows wrong logic.
    kept = source.LayerNorm.forward
    if dtype == torch.float64:
        source.LayerNorm.forward = torch.nn.LayerNorm.forward
    output, _ = model.encoder(torch.cat((query, features), 1), torch.tensor(lengths) + len(queries))
    source.LayerNorm.forward = kept
    log_probs = torch.log_softmax(model.ctc.ctc_lo(output), -1)
    expected = {"output": output, "log_probs": log_probs}
    return Case("sense-voice", weights_of(model), {"attention_heads": heads}, {}, features, lengths,
                {name: [row[4:4 + length] for row, length in zip(value, lengths)] for name, value in expected.items()}, False,
                [({"input": features, "lengths": torch.tensor(lengths)}, expected)])


def sanm(draw, dtype, clones):
    """FunASR's encoder in chunks."""
    from funasr.models.scama.encoder import SANMEncoderChunkOpt

    heads = draw.choice([1, 2, 4])
    size, look_back = draw.choice([([2, 4, 2], 0), ([2, 4, 2], 1), ([0, 3, 1], 3), ([5, 2, 1], 2), ([3, 5, 3], 1), ([1, 2, 0], 0)])
    sizes = dict(output_size=heads * draw.randint(2, 4), attention_heads=heads, linear_units=draw.randint(4, 12), num_blocks=draw.randint(1, 3),
                 kernel_size=draw.choice([3, 5, 11]), sanm_shfit=0)
    width, batch, steps, (before, frames, after) = 2 * draw.randint(2, 6), draw.randint(1, 3), draw.randint(1, 6), size
    model = randomise(SANMEncoderChunkOpt(width, **sizes, input_layer="pe_online").to(dtype))
    x = torch.randn(batch, steps * frames + after, width)
    # The original is given what our step begins with: nothing before, and the frames that a chunk looks ahead to.
    ahead = model.embed(x[:, :after] * sizes["output_size"] ** 0.5, {"start_idx": 0}) if after else x[:, :0]
    cache = dict(start_idx=after, feats=torch.cat((torch.zeros(batch, before, width), ahead), 1), chunk_size=list(size),
                 encoder_chunk_look_back=look_back, opt=None, tail_chunk=False)
    parts = []
    for begin in range(after, after + steps * frames, frames):
        output, _, _ = model.forward_chunk(x[:, begin:begin + frames].clone(), None, cache)
        parts.append(output[:, before:before + frames])
    whole = torch.cat(parts, 1)
    settings = {"attention_heads": heads, "chunk": {"size": size, "look_back": look_back}}
    return Case("sanm", weights_of(model), settings, {}, x, [steps * frames] * batch, {"output": list(whole)}, True)


def hidden_states(states):
    return dict(zip(("hidden", "cell"), states if isinstance(states, tuple) else (states,)))


def recurrent(draw, dtype, clones):
    from speechbrain.nnet import RNN as source

    name, both, layers = draw.choice(["RNN", "LSTM", "GRU", "LiGRU", "QuasiRNN"]), draw.random() < 0.4, draw.randint(1, 3)
    width, hidden, batch, frames = draw.randint(2, 6), draw.randint(2, 6), draw.randint(1, 3), draw.randint(1, 20)
    arguments, settings = dict(num_layers=layers, bidirectional=both), {}
    if name in ("RNN", "LSTM", "GRU"):
        arguments["bias"] = draw.random() < 0.7
    if name == "RNN":
        settings["nonlinearity"] = draw.choice(["relu", "tanh"])
    if name == "LiGRU":
        settings["nonlinearity"] = draw.choice(["relu", "tanh", "sin", "leaky_relu"])
        arguments["normalization"] = draw.choice(["batchnorm", "layernorm"])
    if name == "QuasiRNN":
        settings |= {"output_gate": draw.random() < 0.5, "zoneout": draw.choice([0.0, 0.25])}
    model = getattr(source, name)(hidden_size=hidden, input_shape=(batch, frames, width), **arguments, **settings)
    # Small where nothing bounds a state.
    model = randomise(model.to(dtype), 0.5 if name in ("LSTM", "GRU", "QuasiRNN") or settings.get("nonlinearity") == "tanh" else 0.25)
    if name in ("LiGRU", "QuasiRNN"):
        settings["bidirectional"] = both
    for layer in model.rnn if name == "LiGRU" else []:
        # Of training; 16,000 rows would be most of the file.
        layer.drop_masks = layer.drop_masks[:2].clone()
    features = torch.randn(batch, frames, width)
    runs = []
    plain = name in ("RNN", "LSTM", "GRU")
    initial = torch.randn(layers * (1 + both), batch, hidden) if plain else None
    given = {"features": features}
    if plain:
        states = (initial, torch.randn_like(initial)) if name == "LSTM" else initial
        output, after = model(features, states)
        runs.append((given | hidden_states(states), {"output": output} | hidden_states(after)))
        relative = torch.tensor([draw.randint(1, frames) / frames for _ in range(batch - 1)] + [1.0])
        output, after = model(features, None, lengths=relative)
        runs.append((given | {"relative_lengths": relative.float()}, {"output": output} | hidden_states(after)))
    whole, after = model(features)
    # The others' states are right in one direction, and QuasiRNN's never.
    right = hidden_states(after) if plain or (name == "LiGRU" and not both) else {}
    runs.append((given, {"output": whole} | right))
    return Case("recurrent", weights_of(model), settings, {}, features, [frames] * batch, {"output": list(whole)}, not both, runs)


def recurrent_cells(draw, dtype, clones):
    from speechbrain.nnet import RNN as source

    name = draw.choice(["RNNCell", "LSTMCell", "GRUCell"])
    settings = {"nonlinearity": draw.choice(["relu", "tanh"])} if name == "RNNCell" else {}
    width, batch = draw.randint(2, 6), draw.randint(1, 3)
    model = getattr(source, name)(hidden_size=draw.randint(2, 6), input_size=width, num_layers=draw.randint(1, 3), bias=draw.random() < 0.7, **settings)
    model = randomise(model.to(dtype), 0.4)
    inputs = torch.randn(2, batch, width)
    first, between = model(inputs[0])
    output, after = model(inputs[1], between)
    return Case("recurrent-cells", weights_of(model), settings, runs=[
        ({"input": inputs[0]}, {"output": first} | hidden_states(between)),
        ({"input": inputs[1]} | hidden_states(between), {"output": output} | hidden_states(after))])


def attentional_rnn_decoder(draw, dtype, clones):
    from speechbrain.nnet import RNN as source

    attention = draw.choice(["content", "location", "keyvalue"])
    sizes = dict(hidden_size=draw.randint(2, 6), attn_dim=draw.randint(2, 6), num_layers=draw.randint(1, 3), enc_dim=draw.randint(2, 6),
                 input_size=draw.randint(2, 6), scaling=draw.choice([1.0, 1.5]))
    sizes |= dict(channels=draw.randint(1, 3), kernel_size=draw.randint(1, 3)) if attention == "location" else {}
    cell = draw.choice(["rnn", "gru", "lstm"])
    # The key-value attention's scale is a root in f32, whatever the model's type.
    conversion, torch.Tensor.float = torch.Tensor.float, lambda tensor: tensor.to(torch.float32)
    model = randomise(source.AttentionalRNNDecoder(cell, attention, nonlinearity="relu", **sizes).to(dtype), 0.4)
    batch, steps, frames = draw.randint(1, 3), draw.randint(1, 6), draw.randint(2, 12)
    inputs, encoded = torch.randn(batch, steps, sizes["input_size"]), torch.randn(batch, frames, sizes["enc_dim"])
    relative = torch.tensor([draw.uniform(0.3, 1.0) for _ in range(batch - 1)] + [1.0])
    # The first weights of the location-aware attention go through `float`.
    torch.Tensor.float = lambda tensor: tensor.to(dtype)
    output, weights = model(inputs, encoded, relative)
    torch.Tensor.float = conversion
    settings = {"scaling": sizes["scaling"]} | ({"nonlinearity": "relu"} if cell == "rnn" else {})
    given = {"inputs": inputs, "encoder_output": encoded, "relative_lengths": relative.to(torch.float32)}
    return Case("attentional-rnn-decoder", weights_of(model), settings,
                runs=[(given, {"output": output, "attention": weights.reshape(batch, steps, frames)})])


def skim(draw, dtype, clones):
    from espnet2.enh.layers.skim import SkiM

    segment, blocks, frames = 2 * draw.randint(1, 4), draw.randint(1, 3), draw.randint(1, 24)
    causal = draw.random() < 0.6
    arguments = dict(segment_size=segment, mem_type=draw.choice(["hc", "h", "c", "id"] + [None] * (not causal)),
                     norm_type="cLN" if causal or draw.random() < 0.3 else "gLN", seg_overlap=not causal and draw.random() < 0.5,
                     bidirectional=not causal and draw.random() < 0.7)
    width, batch = draw.randint(2, 6), draw.randint(1, 3)
    model = randomise(SkiM(width, draw.randint(2, 6), draw.randint(2, 6), num_blocks=blocks, **arguments).to(dtype))
    features = torch.randn(batch, frames, width)
    whole = model(features)
    settings = {name: arguments[name] for name in ("segment_size", "norm_type", "seg_overlap")}
    if arguments["mem_type"] in (None, "id") or blocks == 1:
        settings["mem_type"] = arguments["mem_type"]
    lengths = [frames] * batch
    return Case("skim", weights_of(model), settings, {}, features, lengths, {"output": list(whole)}, causal,
                [({"features": features, "lengths": torch.tensor(lengths)}, {"output": whole})])


def csr_convnet(draw, dtype, clones):
    """The three networks named ConvNet2. They have 14 to 18 million weights."""
    commit = draw.choice(["426e5e6", "5e30aec", "31a44b4"])
    model = randomise(original(clones["csr"], commit, "cnn_model.py", "cnn_model").ConvNet2().to(dtype), 0.03)
    lengths = sorted((draw.randint(9, 60) for _ in range(draw.randint(1, 3))), reverse=True)
    features = torch.randn(len(lengths), lengths[0], 70)
    # Its lengths are computed in f32. One by one: in a batch its convolutions see what padding became.
    torch.set_default_dtype(torch.float32)
    conversion, torch.Tensor.float = torch.Tensor.float, lambda tensor: tensor.to(torch.float32)
    alone = [model(row[None, :length].transpose(1, 2)[:, None], torch.tensor([length]))[0][:, 0] for row, length in zip(features, lengths)]
    torch.Tensor.float = conversion
    return Case("csr-convnet", weights_of(model), {}, {}, features, lengths, {"log_probs": alone})


KINDS = {
    "fsmn": fsmn, "fsmn-vad": fsmn_vad, "fsmn-ctc": fsmn_ctc, "sense-voice": sense_voice, "sanm": sanm, "recurrent": recurrent,
    "recurrent-cells": recurrent_cells, "attentional-rnn-decoder": attentional_rnn_decoder, "skim": skim, "csr-convnet": csr_convnet,
}
# Which clone a kind is read from, and of what.
CLONES = {"fsmn": ("fsmn", "github.com/d5555/FSMN"), "csr-convnet": ("csr", "github.com/gheyret/csr-pytorch")}
