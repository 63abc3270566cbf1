"""Golden data for the second listener's phone head: what the training code (``train/phone_head.py``) computes for small heads with random weights.

``python phone_head.py`` (with the packages of ``train/requirements.txt``) writes ``phone_head.json`` and ``phone_head.safetensors`` next to itself.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent / "train"))
from phone_head import PhoneHead, exported  # noqa: E402

# Layers of the encoder, width, layers of the head, hidden width, frames seen on each side, classes, frames: fewer than are seen, too.
SIZES = [(2, 12, 2, 20, 4, 5, 30), (4, 32, 1, 17, 2, 40, 3), (1, 20, 0, 8, 1, 3, 1), (3, 16, 3, 24, 0, 7, 9)]


def main():
    table, tensors = [], {}
    for case, (encoder_layers, dim, layers, hidden, order, classes, frames) in enumerate(SIZES):
        torch.manual_seed(case)
        head = PhoneHead(encoder_layers, dim, layers, hidden, order, classes)
        for value in head.parameters():
            # Exact in half precision, as they are stored.
            value.copy_((torch.randn(value.shape) * (0.5 if value.dim() < 2 else 1.4 / value[0].numel() ** 0.5)).half())
        behind = torch.randn(encoder_layers, frames, dim) * 3 + 1
        state, config = exported(head.state_dict())
        tensors |= {f"{case}.behind": behind, f"{case}.probabilities": head(behind[:, None])[0].exp()}
        tensors |= {f"{case}.weights.{name}": value.contiguous() if value.dim() == 1 else value.half().contiguous() for name, value in state.items()}
        table.append({"dim": dim, "encoder_layers": encoder_layers, "classes": classes, "config": config | {"num_layers": layers, "hidden_dim": hidden, "order": order}})
    (HERE / "phone_head.json").write_text(json.dumps(table) + "\n")
    save_file(tensors, HERE / "phone_head.safetensors")


if __name__ == "__main__":
    with torch.no_grad():
        main()
