"""Which phones follow which, and CTC's loss beside all that could have been said (CTC-CRF: Xiang and Ou, "CRF-based single-stage acoustic modeling with CTC topology", 2019; lattice-free MMI: Povey et al. 2016).

CTC's probability of a transcript alone grows as well where everything else becomes more probable with it. Here it is divided by the probability of all sequences of phones together,
each weighed by how often English has it, by triples: the network learns to tell what was said from what else might have been.
"""

import numba
import numpy as np
import torch

from phones import PHONES


def triples(sequences, share=0.4):
    """(before, last, next) f32 probabilities of sequences of phones 1 to 39; 0 in front stands for the beginning, as next for the end. Each order is mixed with the one below by Witten and Bell."""
    three = np.zeros((PHONES, PHONES, PHONES))
    for said in sequences:
        before, last = 0, 0
        for phone in [*said, 0]:
            three[before, last, phone] += 1
            before, last = last, phone
    mixed = np.full(PHONES, 1 / PHONES)
    for counts in (three.sum((0, 1)), three.sum(0), three):
        kinds = (counts > 0).sum(-1, keepdims=True)
        seen = counts.sum(-1, keepdims=True)
        mixed = np.where(seen > 0, (counts + kinds * mixed) / np.maximum(seen + kinds, 1), np.broadcast_to(mixed, counts.shape))
    return mixed.astype(np.float32)


@numba.njit(fastmath=True, cache=True)
def forward(y, follows, blank, sound, scales):
    """The paths that reach each frame: those that end in a blank, and those that sound, for each (last but one, last) phone. ``y`` (frames, classes): probabilities."""
    size = follows.shape[0]
    blank[0], sound[0], blank[0, 0, 0] = 0, 0, 1
    total = np.float64(0)
    for t in range(y.shape[0]):
        for b in range(size):
            for c in range(size):
                sound[t + 1, b, c] = sound[t, b, c]
        for b in range(size):
            for a in range(size):
                quiet, both = blank[t, a, b], blank[t, a, b] + sound[t, a, b]
                blank[t + 1, a, b] = both * y[t, 0]
                if both > 0:
                    row, there = follows[a, b], sound[t + 1, b]
                    for c in range(1, size):
                        there[c] += both * row[c]
                    there[b] += (quiet - both) * row[b] if b else 0
        reached = np.float32(0)
        for b in range(size):
            sound[t + 1, b, 0] = 0
            for c in range(size):
                sound[t + 1, b, c] *= y[t, c]
                reached += sound[t + 1, b, c] + blank[t + 1, b, c]
        scale = 1 / max(reached, np.float32(1e-30))
        for b in range(size):
            for c in range(size):
                sound[t + 1, b, c] *= scale
                blank[t + 1, b, c] *= scale
        scales[t] = scale
        total -= np.log(scale)
    reached = np.float32(0)
    for a in range(size):
        for b in range(size):
            reached += (blank[-1, a, b] + sound[-1, a, b]) * follows[a, b, 0]
    return total + np.log(max(reached, np.float32(1e-30)))


@numba.njit(fastmath=True, cache=True)
def occupied(y, follows, blank, sound, scales, shares):
    """How much of all paths' probability goes through each class in each frame, ``shares`` (frames, classes)."""
    size, frames = follows.shape[0], y.shape[0]
    quiet_on, sound_on = np.zeros((size, size), np.float32), np.zeros((size, size), np.float32)
    quiet_new, weighed = np.zeros((size, size), np.float32), np.zeros((size, size), np.float32)
    reached = np.float32(0)
    for a in range(size):
        for b in range(size):
            quiet_on[a, b] = sound_on[a, b] = follows[a, b, 0]
            reached += (blank[frames, a, b] + sound[frames, a, b]) * follows[a, b, 0]
    for a in range(size):
        for b in range(size):
            quiet_on[a, b] /= max(reached, np.float32(1e-30))
            sound_on[a, b] /= max(reached, np.float32(1e-30))
    for t in range(frames - 1, -1, -1):
        for a in range(size):
            for c in range(size):
                shares[t, 0] += blank[t + 1, a, c] * quiet_on[a, c]
                shares[t, c] += sound[t + 1, a, c] * sound_on[a, c] if c else 0
        for b in range(size):
            for c in range(size):
                weighed[b, c] = y[t, c] * sound_on[b, c] if c else 0
        for a in range(size):
            for b in range(size):
                on = np.float32(0)
                row, behind = follows[a, b], weighed[b]
                for c in range(size):
                    on += row[c] * behind[c]
                stays = y[t, 0] * quiet_on[a, b]
                again = row[b] * behind[b] if b else np.float32(0)
                quiet_new[a, b] = (stays + on) * scales[t]
                sound_on[a, b] = (stays + on - again + weighed[a, b]) * scales[t]
        for a in range(size):
            for b in range(size):
                quiet_on[a, b] = quiet_new[a, b]


class Everything(torch.autograd.Function):
    """(batch, frames, classes) f32 log-probabilities -> (batch) f64: the log-probability of all sequences together."""

    @staticmethod
    def forward(context, log_probs, lengths, follows):
        y, size = log_probs.detach().exp().numpy(), len(follows)
        shares, sums = np.zeros_like(y), np.zeros(len(y))
        most = int(lengths.max())
        blank, sound = (np.empty((most + 1, size, size), np.float32) for _ in range(2))
        scales = np.empty(most, np.float32)
        for i, length in enumerate(lengths.tolist()):
            sums[i] = forward(y[i, :length], follows, blank[:length + 1], sound[:length + 1], scales)
            occupied(y[i, :length], follows, blank[:length + 1], sound[:length + 1], scales, shares[i])
        context.save_for_backward(torch.from_numpy(shares))
        return torch.from_numpy(sums)

    @staticmethod
    def backward(context, wanted):
        return context.saved_tensors[0] * wanted[:, None, None].float(), None, None
