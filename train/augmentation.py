"""Makes clean synthetic speech sound like recordings: rooms, microphones, telephone bands, noise, level, clipping, silence around it.

Everything works on f32 samples at 16 kHz and draws from a numpy generator.
"""

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft
from scipy.signal import resample_poly

RATE = 16_000


def room(rng):
    """An impulse response: the direct sound, a few early reflections and an exponentially decaying tail."""
    decay = rng.uniform(0.08, 0.7)
    time = np.arange(int(RATE * min(decay, 0.5))) / RATE
    tail = rng.standard_normal(len(time)) * np.exp(-6.9 * time / decay)
    tail[: int(rng.uniform(0.001, 0.01) * RATE)] = 0
    tail *= 10 ** (-rng.uniform(2, 18) / 20) / np.sqrt(np.sum(tail ** 2) + 1e-9)
    for _ in range(rng.integers(0, 6)):
        tail[int(rng.uniform(0.001, 0.04) * RATE)] += rng.uniform(-0.4, 0.4)
    tail[0] = 1
    return tail.astype(np.float32)


def response(rng, bins):
    """A smooth random gain over frequency; sometimes a high-pass and a low-pass edge as well."""
    frequency = np.linspace(0, RATE / 2, bins)
    knots = np.concatenate([[0], np.sort(np.exp(rng.uniform(np.log(80), np.log(8000), 5))), [8000]])
    gain = np.interp(frequency, knots, rng.normal(0, rng.uniform(0, 5), 7))
    if rng.random() < 0.4:
        gain -= 40 * np.clip(1 - frequency / rng.uniform(50, 300), 0, 1)
    if rng.random() < 0.25:
        edge = rng.uniform(3500, 7500)
        gain -= 60 * np.clip((frequency - edge) / 600, 0, 1)
    return (10 ** (gain / 20)).astype(np.float32)


def noise(rng, length, babble):
    """Noise of unit power: coloured, a hum, or other speakers (``babble``: a function that gives speech of a length)."""
    kind = rng.random()
    if kind < 0.25:
        sound = sum(babble(length) for _ in range(rng.integers(1, 5)))
    elif kind < 0.32:
        time = np.arange(length) / RATE
        base = rng.choice((50, 60)) * rng.integers(1, 4)
        sound = sum(rng.uniform(0.1, 1) / k * np.sin(2 * np.pi * base * k * time + rng.uniform(0, 6)) for k in range(1, 8))
    else:
        size = next_fast_len(length, real=True)
        spectrum = rfft(rng.standard_normal(size).astype(np.float32))
        frequency = np.linspace(0, 1, len(spectrum), dtype=np.float32) + 0.005
        spectrum *= frequency ** -rng.uniform(0, 1.2) * response(rng, len(spectrum))
        sound = irfft(spectrum, size)[:length]
        if rng.random() < 0.4:              # comes and goes
            points = rng.uniform(0.1, 1, max(2, length // RATE * 2 + 2))
            sound = sound * np.interp(np.arange(length), np.linspace(0, length, len(points)), points)
    return (sound / np.sqrt(np.mean(np.square(sound)) + 1e-12)).astype(np.float32)


def mu_law(samples):
    """A round trip through 8-bit mu-law."""
    coded = np.round(np.sign(samples) * np.log1p(255 * np.abs(samples).clip(0, 1)) / np.log(256) * 127) / 127
    return (np.sign(coded) * (np.power(256.0, np.abs(coded)) - 1) / 255).astype(np.float32)


def telephone(rng, samples):
    """8 kHz, 300-3400 Hz, often mu-law."""
    narrow = resample_poly(samples, 1, 2).astype(np.float32)
    size = next_fast_len(len(narrow), real=True)
    spectrum = rfft(narrow, size)
    frequency = np.linspace(0, 4000, len(spectrum))
    spectrum *= np.clip((frequency - rng.uniform(50, 250)) / 100, 0.003, 1) * np.clip((rng.uniform(3400, 3900) - frequency) / 100, 0.003, 1)
    narrow = irfft(spectrum, size)[: len(narrow)]
    narrow = narrow / (np.abs(narrow).max() + 1e-9) * rng.uniform(0.1, 0.95)
    if rng.random() < 0.7:
        narrow = mu_law(narrow)
    return resample_poly(narrow, 2, 1).astype(np.float32)


def pause(rng):
    """Samples of silence around words: up to 0.7 s, seldom long."""
    return int(RATE * rng.uniform(0.0, 0.7) * rng.random())


def augment(rng, speech, babble, strength=1.0, head=None):
    """Returns the samples as a recording; 0.1 to 1.2 s are added around the words, in front ``head`` samples where given. ``strength`` scales how often things happen."""
    def chance(probability):
        return rng.random() < probability * strength

    head, tail = pause(rng) if head is None else head, pause(rng)
    samples = np.concatenate([np.zeros(head, np.float32), speech, np.zeros(tail + RATE // 10, np.float32)])
    length = len(samples)
    reverberates, colours = chance(0.45), chance(0.7)
    if reverberates or colours:
        size = next_fast_len(length + RATE // 2, real=True)
        spectrum = rfft(samples, size)
        if reverberates:
            spectrum *= rfft(room(rng), size)
        if colours:
            spectrum *= response(rng, len(spectrum))
        samples = irfft(spectrum, size)[:length].astype(np.float32)
    power = np.sqrt(np.mean(np.square(samples)) + 1e-9)
    if chance(0.75):
        samples = samples + noise(rng, length, babble) * power * 10 ** (-rng.uniform(6 if chance(0.5) else 20, 45) / 20)
    if chance(0.06):
        samples = np.clip(samples, -power * 4, power * 4)
    if chance(0.15):
        samples = telephone(rng, samples)[:length]
    samples = samples * (10 ** (-rng.uniform(0.5, 24) / 20) / (np.abs(samples).max() + 1e-9))
    return (np.round(samples * 32767) / 32768).astype(np.float32)


def vocal_tract(rng, features, hertz, most=0.13):
    """Another speaker's vocal tract (Jaitly and Hinton 2013): (frames, bands) with the frequencies up to 4.8 kHz stretched or squeezed by up to 13 %, and the rest so that the uppermost stays. ``hertz``: the bands' middles."""
    factor, edge = 1 + rng.uniform(-most, most), 4800
    knee = edge / max(1, factor)
    top = hertz[-1]
    from_hertz = np.where(hertz <= knee * factor, hertz / factor, knee + (hertz - knee * factor) * (top - knee) / (top - knee * factor))
    at = np.interp(from_hertz, hertz, np.arange(len(hertz)))
    low = np.minimum(at.astype(int), len(hertz) - 2)
    return (features[:, low] * (1 - (at - low)) + features[:, low + 1] * (at - low)).astype(np.float32)


def mask(rng, features, bands=2, width=10, spans=2, length=20):
    """SpecAugment in place on (frames, 80): mel bands and time spans are set to the mean."""
    fill = features.mean()
    for _ in range(bands):
        size = rng.integers(0, width + 1)
        low = rng.integers(0, features.shape[1] - size + 1)
        features[:, low:low + size] = fill
    for _ in range(spans):
        size = rng.integers(0, min(length, max(1, features.shape[0] // 12)) + 1)
        low = rng.integers(0, features.shape[0] - size + 1)
        features[low:low + size] = fill
    return features
