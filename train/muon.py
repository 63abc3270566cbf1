"""Muon (Jordan et al. 2024): for a matrix of weights, the direction of steepest descent in the spectral norm, which is the momentum with all its singular values made equal.

Adam scales every weight by itself; a matrix whose momentum has a few large directions is then moved along those only. Here every direction that the gradient has moves by as much.
"""

import torch

COEFFICIENTS = 3.4445, -4.7750, 2.0315                         # of the odd polynomial that brings singular values of 0.001 to 1 near 1 in five steps (the upper slope as steep as it can be)


def orthogonalised(matrix, steps=5, kind=torch.float32):
    """The matrix with singular values between 0.7 and 1.2 instead of its own, by Newton and Schulz's iteration in numbers of ``kind``, of which bf16 are enough."""
    a, b, c = COEFFICIENTS
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = (x / x.norm().clamp_min(1e-7)).to(kind)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if matrix.shape[0] > matrix.shape[1] else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """For matrices only. The root mean square of a step is that of Adam's, a fifth of the learning rate (Liu et al. 2025, arXiv:2502.16982), so that both may have the same rate."""

    def __init__(self, matrices, lr=0.0, momentum=0.95, weight_decay=0.01, kind=torch.float32):
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.kind = kind

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                mean = self.state[weight].setdefault("mean", torch.zeros_like(weight))
                mean.lerp_(weight.grad, 1 - group["momentum"])
                ahead = weight.grad.lerp(mean, group["momentum"])
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(orthogonalised(ahead, kind=self.kind), alpha=-0.2 * group["lr"] * max(weight.shape) ** 0.5)
