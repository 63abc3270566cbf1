"""Half a second at 16 kHz that is broad, never periodic and easy to line up: gliding harmonics under syllable-like swells."""

import math
import struct
import sys
import wave

RATE, SAMPLES = 16_000, 8_000

phase = [0.0] * 6
with wave.open(sys.argv[1], "wb") as file:
    file.setparams((1, 2, RATE, SAMPLES, "NONE", ""))
    for index in range(SAMPLES):
        time = index / RATE
        pitch = 140 + 160 * time + 25 * math.sin(2 * math.pi * 5 * time)
        swell = 0.15 + 0.85 * math.sin(math.pi * 3.2 * time) ** 2
        value = 0.0
        for harmonic in range(len(phase)):
            phase[harmonic] += 2 * math.pi * pitch * (2 * harmonic + 1) / RATE
            value += math.sin(phase[harmonic]) / (harmonic + 1)
        file.writeframes(struct.pack("<h", round(9_000 * swell * value)))
