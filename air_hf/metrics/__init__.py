"""Accuracy of whole boards and of cells; `puzzle_accuracy.py` offers it as a metric of the `evaluate` library.

The computation stands here because scripts beside `examples/evaluate.py` cannot import a library called `evaluate`.
"""

import numpy as np


def score_boards(predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """Shares of boards and of cells that are right; boards without any label are left out.

    Args:
        predictions (integer array of shape `(N, S)`): symbol ids of the answers.
        references (integer array of shape `(N, S)`): the right ids; a negative id or 0 (padding) means "no label".

    Returns:
        `dict`: `exact_accuracy`, the share of boards whose labelled cells are all right, and `cell_accuracy`, the share
        of labelled cells that are right, averaged over boards.

    Raises:
        ValueError: shapes differ, or no board has a label.
    """
    predictions, references = np.asarray(predictions), np.asarray(references)
    if predictions.shape != references.shape:
        raise ValueError(f"predictions have shape {predictions.shape}, references {references.shape}")
    labelled = references > 0
    counts = labelled.sum(1)
    if not counts.any():
        raise ValueError(f"none of the {len(references)} boards has a label")
    right = ((predictions == references) & labelled).sum(1)[counts > 0]
    counts = counts[counts > 0]
    return {"exact_accuracy": float((right == counts).mean()), "cell_accuracy": float((right / counts).mean())}
