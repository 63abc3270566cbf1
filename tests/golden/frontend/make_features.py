"""Reference features of source.wav, as features.safetensors.

    pip install -r requirements.txt && python make_features.py

`log_mel`: librosa's filter bank and numpy's FFT in f64. `fbank.<n>`: kaldi-native-fbank's online extractor, not finished, with the
options of `OPTIONS[n]`, whose JSON (our configuration) is in the file's metadata as `fbank.<n>`. Each is (frames, features) f32.
"""

import json
import wave
from pathlib import Path

import kaldi_native_fbank as knf
import librosa
import numpy as np
from safetensors.numpy import save_file

HERE = Path(__file__).parent
RATE, N_FFT, HOP, LEFT, NUM_MELS, LOG_FLOOR = 16_000, 400, 160, 200, 80, 1e-7

# Our names; each differs from the defaults by what it is there to show.
OPTIONS = [
    {},
    {"snip_edges": False},
    {"snip_edges": False, "frame_length_ms": 32.0, "frame_shift_ms": 12.5, "window_type": "hamming"},
    {"window_type": "hanning", "num_mel_bins": 40, "low_freq": 60.0, "high_freq": -400.0},
    {"window_type": "rectangular", "preemphasis": 0.0, "remove_dc_offset": False},
    {"window_type": "blackman", "use_power": False, "high_freq": 7_600.0},
    {"window_type": "sine", "use_log_fbank": False, "input_scale": 1.0},
    {"round_to_power_of_two": False, "num_mel_bins": 23},
    {"use_energy": True, "energy_floor": 1.0, "num_mel_bins": 24},
    {"use_energy": True, "raw_energy": False, "htk_compat": True, "input_scale": 1.0, "energy_floor": 0.01},
]


def read_source():
    with wave.open(str(HERE / "source.wav")) as file:
        return np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")


def log_mel(samples):
    samples = np.concatenate([np.zeros(LEFT), samples.astype(np.float64) / 32_768])
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)
    starts = range(0, len(samples) - N_FFT + 1, HOP)
    power = np.abs(np.fft.rfft(np.stack([samples[start : start + N_FFT] * window for start in starts]))) ** 2
    filters = librosa.filters.mel(sr=RATE, n_fft=N_FFT, n_mels=NUM_MELS)
    return ((np.log10(np.maximum(power @ filters.T, LOG_FLOOR)) + 4) / 4).astype(np.float32)


def fbank(samples, options):
    config = knf.FbankOptions()
    frame, mel = config.frame_opts, config.mel_opts
    frame.samp_freq = RATE
    frame.dither = 0
    mel.num_bins = options.get("num_mel_bins", 80)
    frame.frame_length_ms = options.get("frame_length_ms", 25.0)
    frame.frame_shift_ms = options.get("frame_shift_ms", 10.0)
    frame.preemph_coeff = options.get("preemphasis", 0.97)
    frame.remove_dc_offset = options.get("remove_dc_offset", True)
    frame.window_type = options.get("window_type", "povey")
    frame.round_to_power_of_two = options.get("round_to_power_of_two", True)
    frame.snip_edges = options.get("snip_edges", True)
    mel.low_freq = options.get("low_freq", 20.0)
    mel.high_freq = options.get("high_freq", 0.0)
    config.use_energy = options.get("use_energy", False)
    config.raw_energy = options.get("raw_energy", True)
    config.energy_floor = options.get("energy_floor", 0.0)
    config.htk_compat = options.get("htk_compat", False)
    config.use_log_fbank = options.get("use_log_fbank", True)
    config.use_power = options.get("use_power", True)
    scale = options.get("input_scale", 32_768.0) / 32_768
    online = knf.OnlineFbank(config)
    online.accept_waveform(RATE, (samples.astype(np.float32) * scale).tolist())
    return np.stack([online.get_frame(index) for index in range(online.num_frames_ready)]).astype(np.float32)


samples = read_source()
tensors = {"log_mel": log_mel(samples)}
metadata = {}
for index, options in enumerate(OPTIONS):
    # Every third frame keeps the file small; the first three show the mirrored beginning.
    frames = fbank(samples, options)
    tensors[f"fbank.{index}"] = np.concatenate([frames[:3], frames[3::3]])
    metadata[f"fbank.{index}"] = json.dumps({"type": "kaldi_fbank", **options, "frames": len(frames)})
save_file(tensors, HERE / "features.safetensors", metadata)
for name, tensor in tensors.items():
    print(name, tensor.shape, tensor.min(), tensor.max(), metadata.get(name, ""))
