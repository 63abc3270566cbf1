"""The two Emformers that are compared, with random weights."""

import torch
from torchaudio.models import Emformer

# Seconds of one encoder frame: four feature frames of 10 ms, as in torchaudio's LibriSpeech recipe.
FRAME_SECONDS = 0.04

SIZES = {
    # The encoder of torchaudio's published LibriSpeech RNN-T.
    "base": dict(input_dim=512, num_heads=8, ffn_dim=2048, num_layers=20, segment_length=4, left_context_length=30,
                 right_context_length=1, max_memory_size=0, activation="gelu", tanh_on_mem=True),
    "small": dict(input_dim=256, num_heads=4, ffn_dim=1024, num_layers=12, segment_length=8, left_context_length=32,
                  right_context_length=4, max_memory_size=4, activation="gelu", tanh_on_mem=True),
}


def make(name):
    """The same model whenever it is asked for."""
    torch.manual_seed(7)
    return Emformer(**SIZES[name]).eval()


def segment_seconds(name):
    return SIZES[name]["segment_length"] * FRAME_SECONDS


def window(name):
    """Frames that one step sees."""
    return SIZES[name]["segment_length"] + SIZES[name]["right_context_length"]


def old_states(model, name, batch, steps=12):
    """States of sessions whose left context and memory are full."""
    states, frames = None, window(name)
    lengths = torch.full((batch,), frames)
    for _ in range(steps):
        _, _, states = model.infer(torch.randn(batch, frames, SIZES[name]["input_dim"]), lengths, states)
    return states
