"""What a run keeps in memory, counted before its first step.

Axis letters: B slots, S cells.
"""

from dataclasses import dataclass

import torch

from air_hf.modeling import AIRForPuzzleSolving
from air_hf.training.trainer import Trainer

_MIB, _GIB = 2**20, 2**30


@dataclass(frozen=True)
class MemoryNeeds:
    """Bytes that one process holds at the height of a step, by component; without the backward pass's working memory.

    Args:
        weights, gradients, moments, averages (`int`): the model, its gradients (twice, where processes exchange them),
            AdamAtan2's two moments, and the EMA.
        carry (`int`): states and puzzles of the process's slots: as the step before left them, refilled (in float32),
            and as this one leaves them, in parts and joined.
        activations (`int`): what the slots that run at a time keep for the backward pass, without compilation, which
            saves some of it.
        checkpoint (`int`): of these and the other processes' slots, on the disk.
    """

    weights: int
    gradients: int
    moments: int
    averages: int
    carry: int
    activations: int
    checkpoint: int

    @property
    def total(self) -> int:
        """Bytes of all that is in memory."""
        return self.weights + self.gradients + self.moments + self.averages + self.carry + self.activations

    def __str__(self) -> str:
        names = ("weights", "gradients", "moments", "averages", "carry", "activations")
        parts = ", ".join(f"{name} {getattr(self, name) / _MIB:,.1f}" for name in names)
        total, checkpoint = self.total / _MIB, self.checkpoint / _MIB
        return f"memory of a process: at least {total:,.1f} MiB ({parts}); a checkpoint: {checkpoint:,.1f} MiB"


def measure_memory(trainer: Trainer, batch: dict[str, torch.Tensor]) -> MemoryNeeds:
    """Counts what a run needs; activations by running one and two slots for a segment.

    Args:
        trainer ([`Trainer`]): the run.
        batch (`dict[str, torch.Tensor]`): this process's puzzles, B of them, see [`Trainer.train_step`].

    Raises:
        ValueError: it is more than `max_memory`; the message says how many `accumulation_steps` would do.
    """
    args, model = trainer.args, trainer.model
    batch = {name: tensor.to(trainer.accelerator.device) for name, tensor in batch.items()}
    slots = len(batch["input_ids"])
    (one, state), (two, _) = (_run_segment(model, {k: v[:n] for k, v in batch.items()}) for n in (1, min(2, slots)))
    processes = trainer.accelerator.num_processes
    weights = _bytes(model.state_dict().values())
    trained = _bytes(model.parameters())
    # The prefix table's optimiser keeps nothing.
    moments = 2 * sum(_bytes(group["params"]) for group in trainer.adam.param_groups)
    averages = trained if trainer.ema else 0
    puzzles = _bytes(batch.values())
    stored = slots * state + puzzles + slots  # with a byte for `halted`
    refilled = _bytes(vars(model.initial_state(slots)).values()) + puzzles

    def needs(parts: int) -> MemoryNeeds:
        activations = one + (two - one) * (slots // parts - 1)
        gradients = trained * (1 if processes == 1 else 2)
        carry = refilled + (2 if parts == 1 else 3) * stored
        checkpoint = 2 * weights + moments + averages + processes * stored
        return MemoryNeeds(weights, gradients, moments, averages, carry, activations, checkpoint)

    found = needs(args.accumulation_steps)
    if args.max_memory is not None and found.total > args.max_memory * _GIB:
        choices = [parts for parts in range(1, slots + 1) if slots % parts == 0]
        enough = [parts for parts in choices if needs(parts).total <= args.max_memory * _GIB]
        advice = f"accumulation_steps {enough[0]} is enough" if enough else "no accumulation_steps is enough"
        raise ValueError(f"max_memory is {args.max_memory:g} GiB; {found}. {advice}")
    return found


def _bytes(tensors) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _run_segment(model: AIRForPuzzleSolving, batch: dict[str, torch.Tensor]) -> tuple[int, int]:
    """Bytes of the tensors, other than weights, that the backward pass would need; and of one slot's state."""
    owned = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # itself would hold the graph that holds it

    slots = len(batch["input_ids"])
    # The graph holds what it keeps while it is built, so that no address comes up twice.
    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        torch.compiler.set_stance("force_eager"),
    ):
        output = model(**batch, state=model.initial_state(slots))
    return sum(kept.values()), _bytes(vars(output.state).values()) // slots
