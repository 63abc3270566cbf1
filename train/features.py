"""Streaming log-mel features: Whisper's filter bank with a fixed floor and no look at the rest of the utterance.

Frame t covers samples [160 t - 200, 160 t + 200) of the audio, with zeros before its beginning; |STFT|^2 through 80 Slaney filters;
``(log10(max(power, floor)) + 4) / 4``.
"""

import numpy as np
import torch

RATE, N_FFT, HOP, LEFT, NUM_MELS, LOG_FLOOR = 16_000, 400, 160, 200, 80, 1e-7


def slaney_filters():
    """(80, 201) f32: triangles on Slaney's mel scale (linear to 1 kHz, then logarithmic), each of unit area."""
    step = np.log(6.4) / 27
    low = np.linspace(0, 15 + np.log(8) / step, NUM_MELS + 2)        # 8 kHz in mel
    edges = np.where(low < 15, low * 200 / 3, 1000 * np.exp((low - 15) * step))
    bins = np.linspace(0, RATE / 2, N_FFT // 2 + 1)
    rise = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    weights = np.maximum(0, np.minimum(rise, fall)) * (2 / (edges[2:] - edges[:-2]))[:, None]
    return torch.from_numpy(weights.astype(np.float32))


FILTERS = slaney_filters()
MIDDLES = (FILTERS @ torch.linspace(0, RATE / 2, N_FFT // 2 + 1) / FILTERS.sum(1)).numpy()    # Hz, of the filters
WINDOW = torch.hann_window(N_FFT, periodic=True)


def mel_power(audio, num_frames):
    """(samples,) or (batch, samples) f32 -> (..., num_frames, 80) power; the audio is extended with zeros, or cut, to fit."""
    needed = (num_frames - 1) * HOP + N_FFT - LEFT
    audio = audio[..., :needed]
    audio = torch.nn.functional.pad(audio, (LEFT, needed - audio.shape[-1]))
    spectrum = torch.stft(audio, N_FFT, HOP, window=WINDOW.to(audio.device), center=False, return_complex=True)
    return (FILTERS.to(audio.device) @ spectrum.abs().square()).transpose(-1, -2)


def features(audio, num_frames, log_floor=LOG_FLOOR):
    """Streaming log-mel of ``audio``: (..., num_frames, 80) f32."""
    return (mel_power(audio, num_frames).clamp_min(log_floor).log10() + 4) / 4
