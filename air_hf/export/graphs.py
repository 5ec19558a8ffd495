"""The four graphs of an exported model, as modules that take and return tensors by name.

A graph calls the model's own method: `encode`, `l_update`, `h_update`, or `decode` with `halting_logits`. What passes
from `encode` to the updates is whatever of [`AIRInputs`] the variant's updates read, see [`input_fields`].
"""

from collections.abc import Callable

import torch
from torch import nn

from air_hf.modeling import AIRConfig, AIRForPuzzleSolving
from air_hf.modeling.modeling_air import AIRAttention, AIRInputs

GRAPHS = ("encode", "l_update", "h_update", "decode")
ATTENTIONS = "attentions"
_STATES = {"l_update": ("z_l", "z_h"), "h_update": ("z_h", "z_l"), "decode": ("z",)}


def input_fields(config: AIRConfig, graph: str) -> tuple[str, ...]:
    """The fields of [`AIRInputs`] that "l_update" or "h_update" reads, or that "encode" gives: those of both."""
    if graph == "encode":
        return tuple(dict.fromkeys(input_fields(config, "l_update") + input_fields(config, "h_update")))
    if graph == "l_update" and config.input_operator == "hadamard":
        return ("x",)
    injections = {"l_update": config.l_injections, "h_update": config.h_injections}.get(graph, 0)
    return (f"{graph[0]}_injection",) if injections else ()


class Graph(nn.Module):
    """One graph of a model.

    Args:
        model ([`AIRForPuzzleSolving`]): in evaluation mode; with `attn_implementation="eager"`, else it has no maps.
        name (`str`): one of [`GRAPHS`].
        with_attentions (`bool`): an update also gives the attention maps of its layers (layers, B, heads, T, T).
    """

    def __init__(self, model: AIRForPuzzleSolving, name: str, with_attentions: bool = False):
        super().__init__()
        self.model, self.name, self.with_attentions = model, name, with_attentions

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the arguments, in order."""
        if self.name == "encode":
            return ("input_ids", "puzzle_ids") if self.model.config.num_puzzle_ids > 1 else ("input_ids",)
        return _STATES[self.name] + input_fields(self.model.config, self.name)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the results, in order."""
        if self.name == "encode":
            return ("z_h", "z_l", *input_fields(self.model.config, "encode"))
        if self.name == "decode":
            return ("logits", "q_halt_logits", "q_continue_logits")
        return ("z", ATTENTIONS) if self.with_attentions else ("z",)

    @torch.no_grad()
    def examples(self) -> dict[str, torch.Tensor]:
        """Arguments of two boards to trace with."""
        config = self.model.config
        tensors = {
            "input_ids": torch.arange(2 * config.seq_len).view(2, config.seq_len) % config.vocab_size,
            "puzzle_ids": torch.zeros(2, dtype=torch.long),
        }
        encode = Graph(self.model, "encode")
        tensors |= encode(**{name: tensors[name] for name in encode.inputs})
        tensors["z"] = tensors["z_h"]
        return {name: tensors[name].clone() for name in self.inputs}

    def forward(self, **tensors: torch.Tensor) -> dict[str, torch.Tensor]:
        return dict(zip(self.outputs, getattr(self, f"_{self.name}")(**tensors), strict=True))

    def _encode(self, input_ids: torch.Tensor, puzzle_ids: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        inputs = self.model.model.encode(input_ids, puzzle_ids)
        state = self.model.initial_state(input_ids.shape[0])
        return state.z_h, state.z_l, *(getattr(inputs, name) for name in input_fields(self.model.config, "encode"))

    def _l_update(self, z_l: torch.Tensor, z_h: torch.Tensor, **inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self._update(self.model.model.l_update, z_l, z_h, inputs)

    def _h_update(self, z_h: torch.Tensor, z_l: torch.Tensor, **inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self._update(self.model.model.h_update, z_h, z_l, inputs)

    def _update(self, update: Callable, own: torch.Tensor, other: torch.Tensor, inputs: dict) -> tuple:
        maps: list[torch.Tensor] = []
        layers = [m for m in self.model.modules() if isinstance(m, AIRAttention)] if self.with_attentions else []
        hooks = [layer.register_forward_hook(lambda _, __, output: maps.append(output[1])) for layer in layers]
        try:
            z = update(own, other, AIRInputs(**({"x": own} | inputs)))
        finally:
            for hook in hooks:
                hook.remove()
        return (z, torch.stack(maps)) if self.with_attentions else (z,)

    def _decode(self, z: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.model.decode(z), *self.model.halting_logits(z)
