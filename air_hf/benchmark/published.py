"""The published AIR code of a checkout (github.com/juchengshen/air), timed beside this package in one process."""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch
from adam_atan2_pytorch import AdamAtan2  # the optimiser that the published code brings along as a zip file

from air_hf.benchmark.cases import Case
from air_hf.modeling import AIRConfig

_MODEL, _LOSS, _PREFIX = "models.air.air_1net_Lx_H", "models.losses", "models.sparse_embedding"
# What the published file for Lx_H has built in: the defaults of AIRConfig.
_BUILT_IN = ("l_injections", "h_injections", "input_operator", "level_token", "shared_network", "mixer", "gradient",
             "halting", "loss_function", "position_embedding", "prefix_len")  # fmt: skip


class PublishedCode:
    """The published model of a case's size, with random weights, and the steps of its `pretrain.py`.

    Args:
        folder (`Path`): the checkout, whose Python files are run.
        case ([`Case`]): the size, batch and recipe.
        device, dtype: as of the model beside it.
        compile (`bool`): as `pretrain.py` does by default.

    Raises:
        ValueError: the folder is no such checkout, or the case's model is not one that it can build.
    """

    def __init__(self, folder: Path, case: Case, device: torch.device, dtype: torch.dtype, compile: bool):
        config, recipe = case.config, case.recipe
        for field in _BUILT_IN:
            value, built_in = getattr(config, field), getattr(AIRConfig, field)
            if value != built_in:
                raise ValueError(f"{field} is {value!r}; the published code has {built_in!r} built in")
        model_class, loss_class, prefix_class = _import_from(folder)
        with device:
            model = loss_class(model_class(_arguments(config, recipe.batch_size, dtype)), "stablemax_cross_entropy")
        self._optimizers = [
            prefix_class(
                model.model.puzzle_emb.buffers(), world_size=1, lr=recipe.prefix_learning_rate,
                weight_decay=recipe.prefix_weight_decay,
            ),
            AdamAtan2(model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay),
        ]  # fmt: skip
        self._model = torch.compile(model, dynamic=False) if compile else model
        self._module, self._device, self._carry = model, device, None

    def train_step(self, batch: dict[str, torch.Tensor]) -> None:
        """One step of `train_batch`, on a batch of a [`PuzzleStream`]."""
        self._module.train()
        published = self._renamed(batch)
        if self._carry is None:
            self._carry = self._module.initial_carry(published)
        self._carry, loss, *_ = self._model(carry=self._carry, batch=published, return_keys=[])
        (loss / len(published["inputs"])).backward()
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad()

    def evaluator(self, batch: dict[str, torch.Tensor]) -> Callable[[], object]:
        """What computes the first segment of a batch as `evaluate` does, again at each call."""
        self._module.eval()
        published = self._renamed(batch)
        carry = self._module.initial_carry(published)
        return lambda: self._model(carry=carry, batch=published, return_keys=[])

    def _renamed(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        ids = torch.zeros(len(batch["labels"]), dtype=torch.int32)
        published = {"inputs": batch["input_ids"], "labels": batch["labels"], "puzzle_identifiers": ids}
        return {name: tensor.to(self._device) for name, tensor in published.items()}


def _import_from(folder: Path) -> tuple[type, type, type]:
    if not (folder / f"{_MODEL.replace('.', '/')}.py").is_file():
        raise ValueError(f"{folder} is no checkout of the published code: there is no {_MODEL.replace('.', '/')}.py")
    sys.path.insert(0, str(folder))
    try:
        return (
            import_module(_MODEL).AIR,
            import_module(_LOSS).ACTLossHead,
            import_module(_PREFIX).CastedSparseEmbeddingSignSGD_Distributed,
        )
    except ModuleNotFoundError as error:
        raise ValueError(f"{folder} needs the package {error.name}, which is not installed") from error
    finally:
        sys.path.remove(str(folder))


def _arguments(config: AIRConfig, batch_size: int, dtype: torch.dtype) -> dict:
    """The configuration in the published names."""
    return {
        "batch_size": batch_size, "seq_len": config.seq_len, "vocab_size": config.vocab_size,
        "puzzle_emb_ndim": config.prefix_dim, "num_puzzle_identifiers": config.num_puzzle_ids,
        "H_cycles": config.h_cycles, "L_cycles": config.l_cycles, "H_layers": config.num_hidden_layers,
        "L_layers": config.num_hidden_layers, "hidden_size": config.hidden_size, "expansion": config.expansion,
        "num_heads": config.num_attention_heads, "pos_encodings": "rope", "halt_max_steps": config.max_segments,
        "halt_exploration_prob": 0.1, "forward_dtype": str(dtype).removeprefix("torch."),
    }  # fmt: skip
