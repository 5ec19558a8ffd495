"""Optimisers of the published codes: AdamAtan2 for the network, sign-SGD for the prefix table, and their schedule."""

import math

import torch
from adam_atan2_pytorch import AdamAtan2

from air_hf.modeling import AIRForPuzzleSolving


class PrefixSignSGD(torch.optim.Optimizer):
    """Sign-SGD with decoupled weight decay on the rows of a table that a batch used (HRM's optimiser of puzzle ids).

    Args:
        params: the prefix tables, (ids, E).
        lr (`float`): step size.
        weight_decay (`float`): decay of a used row, times `lr`.
    """

    def __init__(self, params, lr: float, weight_decay: float):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, used_ids: torch.LongTensor) -> None:
        """Updates the rows named by `used_ids` (any shape, repeats allowed)."""
        rows = used_ids.unique()
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is None:  # as other optimisers do
                    continue
                decayed = table[rows] * (1 - group["lr"] * group["weight_decay"])
                table[rows] = decayed - group["lr"] * table.grad[rows].sign()


def make_optimizers(
    model: AIRForPuzzleSolving, weight_decay: float, prefix_weight_decay: float, betas: tuple[float, float]
) -> tuple[AdamAtan2, PrefixSignSGD | None]:
    """AdamAtan2 (arXiv 2407.05872) over all parameters but the prefix table, and sign-SGD over that, if there is one.

    Learning rates are set at every step; see `scheduled_lr`.
    """
    table = None if model.model.prefix is None else model.model.prefix.weight
    others = [parameter for parameter in model.parameters() if parameter is not table]
    adam = AdamAtan2(others, lr=1.0, betas=betas, weight_decay=weight_decay)
    return adam, None if table is None else PrefixSignSGD([table], lr=1.0, weight_decay=prefix_weight_decay)


def scheduled_lr(step: int, base_lr: float, warmup_steps: int, total_steps: int, min_lr_ratio: float) -> float:
    """Learning rate of a step counted from 1: linear warm-up, then a cosine to `base_lr * min_lr_ratio`."""
    if step < warmup_steps:
        return base_lr * step / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return base_lr * (min_lr_ratio + (1 - min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))
