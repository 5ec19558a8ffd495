"""Adaptive computation in training: slots that keep a puzzle for as many segments as it needs (HRM, section 2).

Axis letters: B slots of a batch.
"""

from dataclasses import dataclass

import numpy as np
import torch

from air_hf.modeling import AIRForPuzzleSolving, AIRPuzzleSolvingOutput, AIRState


@dataclass
class Carry:
    """What the slots of a batch hold between two training steps.

    Args:
        state ([`AIRState`]): recurrent states and segment counts.
        halted (`torch.BoolTensor` of shape `(B,)`): slots that take a new puzzle at the next step.
        batch (`dict[str, torch.Tensor]`): the puzzles in the slots: `input_ids`, `labels`, `puzzle_ids`.
    """

    state: AIRState
    halted: torch.BoolTensor
    batch: dict[str, torch.Tensor]

    def split(self, parts: int) -> list["Carry"]:
        """The slots in so many equal parts."""
        if parts == 1:
            return [self]
        size = len(self.halted) // parts
        return [
            Carry(
                self.state[first : first + size],
                self.halted[first : first + size],
                {name: tensor[first : first + size] for name, tensor in self.batch.items()},
            )
            for first in range(0, len(self.halted), size)
        ]

    @staticmethod
    def join(parts: list["Carry"]) -> "Carry":
        """The slots of all parts, behind one another."""
        if len(parts) == 1:
            return parts[0]
        return Carry(
            AIRState.cat([part.state for part in parts]),
            torch.cat([part.halted for part in parts]),
            {name: torch.cat([part.batch[name] for part in parts]) for name in parts[0].batch},
        )


def initial_carry(model: AIRForPuzzleSolving, batch: dict[str, torch.Tensor]) -> Carry:
    """A carry whose slots are all waiting for a puzzle."""
    slots = len(batch["input_ids"])
    halted = torch.ones(slots, dtype=torch.bool, device=batch["input_ids"].device)
    return Carry(model.initial_state(slots).detach(), halted, batch)


def refill(model: AIRForPuzzleSolving, carry: Carry, batch: dict[str, torch.Tensor]) -> Carry:
    """Gives halted slots the puzzle of the same slot of `batch` and a fresh state."""
    fresh = model.initial_state(1)  # the same in every slot
    current = {
        name: torch.where(carry.halted.view(-1, *[1] * (new.ndim - 1)), new, carry.batch[name])
        for name, new in batch.items()
    }
    return Carry(fresh.where(carry.halted, carry.state), carry.halted, current)


def draw_least_segments(
    slots: int, max_segments: int, exploration_prob: float, delay_prob: float, rng: np.random.Generator
) -> torch.Tensor:
    """Segments that every slot must reach before it may halt at this step; int64 (B,).

    Exploration: with probability `exploration_prob` a random count in 2..max_segments (HRM, section 2). Delay: with
    probability `delay_prob` all of them, so that a slot which wishes to halt stays for 1 / (1 - delay_prob) steps on
    average. The other slots, and all where there is only one segment, get 0.
    """
    if max_segments < 2:
        return torch.zeros(slots, dtype=torch.long)
    explores = rng.random(slots) < exploration_prob
    least = np.where(explores, rng.integers(2, max_segments + 1, size=slots), 0)
    return torch.from_numpy(np.where(rng.random(slots) < delay_prob, max_segments, least))


def has_halted(
    model: AIRForPuzzleSolving, output: AIRPuzzleSolvingOutput, least_segments: torch.LongTensor
) -> torch.BoolTensor:
    """Slots (B,) done with their puzzle: at the last segment, or wishing to halt after `least_segments` (B,)."""
    count, most = output.state.num_segments, model.config.max_segments
    wishes = model.wants_to_halt(output) & (count >= least_segments)
    return (count >= most) | wishes
