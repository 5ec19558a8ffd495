"""Exponential moving average of the weights; on small puzzle models a large gain for little."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class EMA:
    """Averages of a model's parameters, in their own dtype.

    The decay ramps up as (1 + step) / (10 + step) until it reaches `decay`, so early averages are not the initial
    weights.

    Args:
        model (`nn.Module`): whose parameters to follow.
        decay (`float`): weight of the past in the average, below 1.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.averages = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Moves the averages towards the model's weights after `step` (from 1)."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.averages.values()), [p.detach() for p in model.parameters()], weight)

    @contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """Runs the block with the averages in the model, and puts its own weights back afterwards."""
        own = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        self._write(model, self.averages)
        try:
            yield
        finally:
            self._write(model, own)

    @staticmethod
    @torch.no_grad()
    def _write(model: nn.Module, values: dict[str, torch.Tensor]) -> None:
        for name, parameter in model.named_parameters():
            parameter.copy_(values[name])
