"""What the training code makes of the first seconds of ``web/sample.flac`` with each of the shipped models, segment by segment as they are served.

``python shipped.py`` (with the packages of ``train/requirements.txt``) writes ``shipped.safetensors``: for every model ``ID.features (feature frames, values)`` and
``ID.log_probs (frames, classes)``, f32; and ``ID.phones (frames, phones)``, of the small one log-probs, of the larger one's second listener probabilities, half a second of silence behind. To be run again after new weights.
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
from export import SHARED_LAYERS, listening_names  # noqa: E402
from fsmn import stacked  # noqa: E402
from model import Model  # noqa: E402
from phone_head import PhoneHead  # noqa: E402
from train_listener import hear  # noqa: E402

SECONDS = 2.56                                                 # whole segments of every model


PADDING_FRAMES = 25                                            # of silence, as the program adds them


def listener_of(folder, model):
    """The second listener's encoder, which has the stem and its lowest layers from the streaming one, and its phone head."""
    own, read = Model(4, {}), evaluate.read_weights(folder, listener=True)
    state = {name: read[f"utterance_encoder.{there}"] for name in own.state_dict() for there, _ in listening_names({name: None})}
    missing, _ = own.load_state_dict(state, strict=False)
    own.stem = model.stem
    for layer in range(SHARED_LAYERS):
        own.emformer_layers[layer] = model.emformer_layers[layer]
    lent = ("stem.", "layer_norm.", *(f"emformer_layers.{layer}." for layer in range(SHARED_LAYERS)))
    assert all(name.startswith(lent) for name in missing), missing
    head = PhoneHead()
    head.load_state_dict({name[len("phone_head."):]: value for name, value in read.items() if name.startswith("phone_head.")})
    head.mix.copy_(head.mix.log())                             # exported behind its softmax
    return own.eval(), head.eval()


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
        else:
            listener, head = listener_of(ROOT / "model/pretrained" / name, model)
            frames = int(SECONDS * 50)
            behind = hear(listener, spectrum[None, :2 * frames], torch.tensor([frames]), PADDING_FRAMES)
            made[f"{name}.phones"] = head(behind)[0].exp().contiguous()
    save_file(made, Path(__file__).with_suffix(".safetensors"))
    print({name: tuple(value.shape) for name, value in made.items()})


if __name__ == "__main__":
    with torch.no_grad():
        main()
