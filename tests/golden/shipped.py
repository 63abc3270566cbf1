"""What the training code makes of the first seconds of ``web/sample.flac`` with each of the shipped models, segment by segment as they are served.

``python shipped.py`` (with the packages of ``train/requirements.txt``) writes ``shipped.safetensors``: for every model ``ID.features (feature frames, values)`` and
``ID.log_probs (frames, classes)``, f32, and of the small one ``en-fsmn.phones (frames, phones)``. To be run again after new weights.
"""

import sys
from pathlib import Path

import numpy as np
import soundfile
import torch
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "train"))
import evaluate  # noqa: E402
from features import LOG_FLOOR, RATE  # noqa: E402
from fsmn import stacked  # noqa: E402

SECONDS = 2.56                                                 # whole segments of every model


def main():
    samples, rate = soundfile.read(ROOT / "web/sample.flac", dtype="float32")
    assert rate == RATE
    samples, made = torch.from_numpy(np.ascontiguousarray(samples[: int(SECONDS * RATE)])), {}
    for name in ("en-emformer", "en-fsmn"):
        model, _ = evaluate.load(ROOT / "model/pretrained" / name)
        spectrum = model.spectrum(samples, LOG_FLOOR)
        heard = stacked(spectrum[None])[0] if name == "en-fsmn" else spectrum
        made[f"{name}.features"] = heard.contiguous()
        made[f"{name}.log_probs"] = model(spectrum[None])["ctc"][0].contiguous()
        if name == "en-fsmn":
            made[f"{name}.phones"] = model.sounds(spectrum[None])[0].contiguous()
    save_file(made, Path(__file__).with_suffix(".safetensors"))
    print({name: tuple(value.shape) for name, value in made.items()})


if __name__ == "__main__":
    with torch.no_grad():
        main()
