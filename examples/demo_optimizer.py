"""Muon for the matrices inside the layers, Adam for everything else."""

from __future__ import annotations

import torch
from demo_model import DemoModel
from torch import Tensor


def orthogonalised(update: Tensor, steps: int = 5) -> Tensor:
    """The nearest (semi-)orthogonal matrices of (..., rows, columns), by a quintic Newton-Schulz iteration."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = update.bfloat16() / (update.bfloat16().norm(dim=(-2, -1), keepdim=True) + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    for _ in range(steps):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return (x.mT if tall else x).to(update.dtype)


class Optimizer:
    def __init__(self, model: DemoModel, muon_rate: float, adam_rate: float) -> None:
        inner = [
            p for name, p in model.named_parameters()
            if name.startswith("layers.") and name.endswith(("qkv.weight", "o_proj.weight", "mlp.gate_up", "mlp.down"))
        ]  # fmt: skip
        chosen = {id(p) for p in inner}
        rest = [p for p in model.parameters() if id(p) not in chosen]
        self.matrices, self.rate = inner, muon_rate
        self.momentum = [torch.zeros_like(p) for p in inner]
        self.adam_rate = adam_rate
        self.adam = torch.optim.Adam(rest, lr=adam_rate, betas=(0.9, 0.98), fused=True)

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """Apply and clear the gradients; `factor` scales the learning rates."""
        for weight, momentum in zip(self.matrices, self.momentum, strict=True):
            if weight.grad is None:
                continue
            momentum.lerp_(weight.grad, 0.05)
            update = orthogonalised(weight.grad.lerp(momentum, 0.95))
            shape = max(1.0, weight.shape[-2] / weight.shape[-1]) ** 0.5
            weight.mul_(1 - 0.1 * self.rate * factor).sub_(update, alpha=self.rate * factor * shape)
            weight.grad = None
        for group in self.adam.param_groups:
            group["lr"] = self.adam_rate * factor
        self.adam.step()
        self.adam.zero_grad()
