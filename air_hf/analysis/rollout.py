"""Decoded rollouts: both states read through the answer head after every segment (AIR, arXiv 2605.17811).

Axis letters: B puzzles, S cells.
"""

from dataclasses import dataclass

import torch

from air_hf.modeling import AIRForPuzzleSolving


@dataclass(frozen=True)
class Rollout:
    """What the states decode to.

    Args:
        z_h, z_l (`torch.LongTensor` of shape `(segments, B, S)`): symbol ids after each segment; z_h is the answer.
        q_halt_logits (`torch.FloatTensor` of shape `(segments, B)`): the wish to halt after each segment.
    """

    z_h: torch.LongTensor
    z_l: torch.LongTensor
    q_halt_logits: torch.FloatTensor


@torch.no_grad()
def decode_rollout(
    model: AIRForPuzzleSolving,
    input_ids: torch.LongTensor,
    puzzle_ids: torch.LongTensor | None = None,
    max_segments: int | None = None,
) -> Rollout:
    """Runs the model's own segments and decodes z_H and z_L with its answer head after each.

    Args:
        model ([`AIRForPuzzleSolving`]): in evaluation mode.
        input_ids (`torch.LongTensor` of shape `(B, S)`): questions.
        puzzle_ids (`torch.LongTensor` of shape `(B,)`, *optional*): rows of the prefix table.
        max_segments (`int`, *optional*): segments to run; the model's own number if None.

    Raises:
        ValueError: `max_segments` below 1, or boards of another size than the model's.
    """
    z_h, z_l, q_halt = [], [], []
    for output in model.unroll(input_ids, puzzle_ids, max_segments=max_segments):
        z_h.append(output.logits.argmax(-1))
        z_l.append(model.decode(output.state.z_l).argmax(-1))
        q_halt.append(output.q_halt_logits)
    return Rollout(torch.stack(z_h), torch.stack(z_l), torch.stack(q_halt))
