"""Optimisers of the published codes and of the field, as one object over a model's parameter groups.

Three groups: the *matrices* inside the networks, the *other* weights (embeddings, heads, biases, tokens), and the
*prefix* table, of which every batch uses some rows only.
"""

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from adam_atan2_pytorch import AdamAtan2
from torch import nn

from air_hf.modeling import AIRForPuzzleSolving

if TYPE_CHECKING:  # a recipe reads off this module which optimisers there are
    from air_hf.training.recipe import Recipe


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
        # Repeats write the same numbers again; to find them, the host would have to wait for the device.
        rows = used_ids.flatten()
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is None:  # as other optimisers do
                    continue
                decayed = table[rows] * (1 - group["lr"] * group["weight_decay"])
                table[rows] = decayed - group["lr"] * table.grad[rows].sign()


Weights = dict[str, nn.Parameter]


def weight_groups(model: AIRForPuzzleSolving) -> dict[str, Weights]:
    """The parameters by name, in the groups "matrices", "others" and "prefix"; together they are all of them."""
    groups: dict[str, Weights] = {"matrices": {}, "others": {}, "prefix": {}}
    inner = model.model
    for name, parameter in model.named_parameters():
        if inner.prefix is not None and parameter is inner.prefix.weight:
            groups["prefix"][name] = parameter
        elif parameter.ndim == 2 and name.startswith(("model.networks.", "model.input_proj.")):
            groups["matrices"][name] = parameter
        else:
            groups["others"][name] = parameter
    return groups


def _adam_atan2(recipe: "Recipe", groups: list[dict]) -> torch.optim.Optimizer:
    """Scale-free Adam (arXiv 2407.05872), the published recipes' optimiser."""
    return AdamAtan2(groups, lr=recipe.learning_rate, betas=(recipe.adam_beta1, recipe.adam_beta2))


def _adamw(recipe: "Recipe", groups: list[dict]) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay (arXiv 1711.05101)."""
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(recipe.adam_beta1, recipe.adam_beta2))


def _muon(recipe: "Recipe", groups: list[dict]) -> torch.optim.Optimizer:
    """Orthogonalised momentum, scaled to the size of AdamW's updates (arXiv 2502.16982), so rates carry over."""
    lr = recipe.learning_rate if recipe.muon_learning_rate is None else recipe.muon_learning_rate
    return torch.optim.Muon(groups, lr=lr, momentum=recipe.muon_momentum, adjust_lr_fn="match_rms_adamw")


# What `--optimizer` may be: the optimiser of the matrices, and that of the other weights; one object where it is one.
OPTIMIZERS: dict[str, tuple[Callable, Callable]] = {
    "adam_atan2": (_adam_atan2, _adam_atan2),
    "adamw": (_adamw, _adamw),
    "muon": (_muon, _adamw),
}


def _count_copies(make: Callable, recipe: "Recipe") -> int:
    """Tensors of a weight's size that an optimiser keeps of it, as a step on a small one shows."""
    weight = nn.Parameter(torch.zeros(2, 2))
    weight.grad = torch.zeros_like(weight)
    part = make(recipe, [{"params": [weight]}])
    part.step()
    return sum(torch.is_tensor(value) and value.shape == weight.shape for value in part.state[weight].values())


class GroupedOptimizer:
    """What updates a model's weights: one object, whatever is inside.

    Args:
        model ([`AIRForPuzzleSolving`]): whose weights.
        recipe ([`Recipe`]): `optimizer`, rates, decays and `max_grad_norm`.

    Attributes:
        parts (`dict[str, torch.optim.Optimizer]`): the optimisers inside, by their class's name.
        state_size (`int`): bytes that they keep once they have stepped, but for a few counters.
    """

    def __init__(self, model: AIRForPuzzleSolving, recipe: "Recipe"):
        groups = weight_groups(model)
        self.max_grad_norm = recipe.max_grad_norm
        self._clipped = [*groups["matrices"].values(), *groups["others"].values()]
        decays = {"matrices": recipe.weight_decay, "others": recipe.weight_decay if recipe.decay == "all" else 0.0}
        members: dict[Callable, list[dict]] = {}
        self.state_size = 0
        for name, make in zip(("matrices", "others"), OPTIMIZERS[recipe.optimizer], strict=True):
            group = {"params": list(groups[name].items()), "weight_decay": decays[name]}
            members.setdefault(make, []).append(group)
            self.state_size += _count_copies(make, recipe) * sum(weight.nbytes for weight in groups[name].values())
        parts = [make(recipe, groups) for make, groups in members.items()]
        if groups["prefix"]:
            prefix = list(groups["prefix"].items())
            parts.append(PrefixSignSGD(prefix, recipe.prefix_learning_rate, recipe.prefix_weight_decay))
        self.parts = {type(part).__name__: part for part in parts}
        for group in self._groups():
            group["initial_lr"] = group["lr"]

    def _groups(self) -> Iterable[dict]:
        return (group for part in self.parts.values() for group in part.param_groups)

    def step(self, lr_ratio: float, used_ids: torch.LongTensor) -> None:
        """Updates the weights by their gradients.

        Args:
            lr_ratio (`float`): share of every group's learning rate, see [`scheduled_lr`].
            used_ids (`torch.LongTensor`): puzzle ids of the batch, any shape.
        """
        if self.max_grad_norm:
            nn.utils.clip_grad_norm_(self._clipped, self.max_grad_norm)
        for group in self._groups():
            group["lr"] = group["initial_lr"] * lr_ratio
        for part in self.parts.values():
            part.step(used_ids) if isinstance(part, PrefixSignSGD) else part.step()

    def state(self) -> dict[str, Any]:
        """Tensors and numbers by `part.parameter.quantity`, from each part's own `state_dict`."""
        flat = {}
        for part_name, part in self.parts.items():
            saved, names = part.state_dict(), _parameter_names(part)
            for index, quantities in saved["state"].items():
                flat |= {f"{part_name}.{names[index]}.{key}": value for key, value in quantities.items()}
        return flat

    def load_state(self, flat: dict[str, Any]) -> None:
        """Puts back what [`state`] gave.

        Raises:
            ValueError: it is of another optimiser or of other weights; the message names what does not fit.
        """
        left = set(flat)
        for part_name, part in self.parts.items():
            shapes = {name: p.shape for group in part.param_groups for name, p in _named(group)}
            state: dict[int, dict[str, Any]] = {}
            for index, (name, shape) in enumerate(shapes.items()):
                start = f"{part_name}.{name}."
                quantities = {key.removeprefix(start): flat[key] for key in flat if key.startswith(start)}
                left -= {start + key for key in quantities}
                if not quantities:  # it has had no gradient yet
                    continue
                first = next(iter(state.values()), quantities)
                if quantities.keys() != first.keys():
                    raise ValueError(f"{part_name} has {sorted(first)} of some weights, {sorted(quantities)} of {name}")
                for key, value in quantities.items():
                    if torch.is_tensor(value) and value.ndim and value.shape != shape:
                        raise ValueError(f"{start}{key} has shape {tuple(value.shape)}; expected {tuple(shape)}")
                state[index] = quantities
            part.load_state_dict({"state": state, "param_groups": part.state_dict()["param_groups"]})
        if left:
            raise ValueError(f"{min(left)} is no state of {', '.join(self.parts)}")


def _named(group: dict) -> Iterable[tuple[str, nn.Parameter]]:
    return zip(group["param_names"], group["params"], strict=True)


def _parameter_names(part: torch.optim.Optimizer) -> list[str]:
    return [name for group in part.param_groups for name in group["param_names"]]


def scheduled_lr(step: int, base_lr: float, warmup_steps: int, total_steps: int, min_lr_ratio: float) -> float:
    """Learning rate of a step counted from 1: linear warm-up, then a cosine to `base_lr * min_lr_ratio`."""
    if step < warmup_steps:
        return base_lr * step / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return base_lr * (min_lr_ratio + (1 - min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))
