"""Activations by name, as TransformerLens names them, with the update in front.

    cache = activation_cache(model, ids, ["segment.3.L.1.*"])
    cache["segment.3.L.1.blocks.0.attn.hook_pattern"]      # (B, heads, T, T)

What is not in the module tree of the network (the states, what they decode to) has names of the same kind.
"""

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase

import torch
from torch import nn

from air_hf.analysis.attention import attention_hooks
from air_hf.analysis.walk import Moment, Walk, moments
from air_hf.modeling import AIRForPuzzleSolving, AIRState

# Within an update, after "segment.{segment}.{level}.{index}.": what a block computes, and the states after the update.
_BLOCK_NAMES = ("hook_resid_pre", "attn.hook_pattern", "hook_mixer_out", "hook_mlp_out", "hook_resid_post")
_STATE_NAMES = ("hook_z_h", "hook_z_l", "hook_logits_h", "hook_logits_l")


def activation_names(model: AIRForPuzzleSolving, max_segments: int | None = None) -> list[str]:
    """Every key that a rollout of so many segments has, in the order of computation."""
    max_segments = model.config.max_segments if max_segments is None else max_segments
    return [name for moment in moments(model, max_segments) for name in _names_of(model, moment)]


def _names_of(model: AIRForPuzzleSolving, moment: Moment) -> list[str]:
    attends = model.config.mixer == "attention"
    inside = [
        f"blocks.{block}.{name}"
        for block in range(model.config.num_hidden_layers)
        for name in _BLOCK_NAMES
        if attends or "pattern" not in name
    ]
    return [f"segment.{moment}.{name}" for name in (*inside, *_STATE_NAMES)]


def activation_cache(
    model: AIRForPuzzleSolving,
    input_ids: torch.LongTensor,
    names: Collection[str],
    max_segments: int | None = None,
    puzzle_ids: torch.LongTensor | None = None,
) -> dict[str, torch.Tensor]:
    """Runs a batch and returns the activations whose keys match, on the CPU.

    Args:
        model ([`AIRForPuzzleSolving`]): in evaluation mode.
        input_ids (`torch.LongTensor` of shape `(B, S)`): questions.
        names (collection of `str`): keys of [`activation_names`], or patterns of them with `*`.
        max_segments (`int`, *optional*): segments to run; the model's own number if None.
        puzzle_ids (`torch.LongTensor` of shape `(B,)`, *optional*): rows of the prefix table.

    Returns:
        `dict[str, torch.Tensor]`: `hook_resid_pre`, `hook_mixer_out` (after its norm), `hook_mlp_out` (before it is
        added; of candidates by digit, (B, T, digits, D / digits)) and `hook_resid_post` of a block, (B, T, D);
        `attn.hook_pattern`, (B, heads, T, T); after the update
        `hook_z_h` and `hook_z_l`, (B, T, D), and what they decode to, `hook_logits_h` and `hook_logits_l`, (B, S, V).

    Raises:
        ValueError: a pattern that matches no key; the message gives the valid ones of an update.
    """
    names = [names] if isinstance(names, str) else list(names)
    known = activation_names(model, max_segments)
    wanted = {key for key in known if any(fnmatchcase(key, name) for name in names)}
    for name in names:
        if not any(fnmatchcase(key, name) for key in wanted):
            first = _names_of(model, Moment(0, "L", 0))
            raise ValueError(
                f"no activation is called {name!r}; there are {len(known):,}, from {known[0]} to {known[-1]}. "
                f"An update's are {', '.join(key.removeprefix('segment.0.L.0.') for key in first)}"
            )
    found: dict[str, torch.Tensor] = {}

    def keep(moment: Moment, name: str, tensor: torch.Tensor) -> None:
        key = f"segment.{moment}.{name}"
        if key in wanted:
            found[key] = tensor.detach().float().cpu()

    def observe(moment: Moment, state: AIRState) -> None:
        for level, z in (("h", state.z_h), ("l", state.z_l)):
            keep(moment, f"hook_z_{level}", z)
            if f"segment.{moment}.hook_logits_{level}" in wanted:
                keep(moment, f"hook_logits_{level}", model.decode(z))

    walk = Walk(model, input_ids, puzzle_ids, max_segments, observer=observe)
    with _block_hooks(model, walk, keep):
        for _ in walk:
            pass
    return {key: found[key] for key in known if key in found}


@contextmanager
def _block_hooks(model: AIRForPuzzleSolving, walk: Walk, keep) -> Iterator[None]:
    """Plain forward hooks on every block while the block of code runs."""
    with ExitStack() as stack:

        def listen(module: nn.Module, name: str, before: bool = False) -> None:
            if before:
                handle = module.register_forward_pre_hook(lambda _, inputs: keep(walk.now, name, inputs[0]))
            else:
                handle = module.register_forward_hook(lambda _, __, output: keep(walk.now, name, output))
            stack.callback(handle.remove)

        for network in model.model.networks.values():
            for number, block in enumerate(network.layers):
                listen(block, f"blocks.{number}.hook_resid_pre", before=True)
                listen(block.mixer, f"blocks.{number}.hook_mixer_out")
                listen(block.mlp, f"blocks.{number}.hook_mlp_out")
                listen(block, f"blocks.{number}.hook_resid_post")
        if model.config.mixer == "attention":
            receive = lambda layer, maps: keep(walk.now, f"blocks.{layer}.attn.hook_pattern", maps)  # noqa: E731
            stack.enter_context(attention_hooks(model, receive))
        yield
