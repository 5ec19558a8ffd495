"""Accuracy of whole boards and of cells, as an `evaluate` metric.

evaluate.load("air_hf/metrics/puzzle_accuracy.py").compute(predictions=[[2, 3]], references=[[2, 3]])
"""

import datasets
import evaluate

from air_hf.metrics import score_boards

_DESCRIPTION = "Exact accuracy (share of boards with every labelled cell right) and cell accuracy (mean over boards)."
_INPUTS = """
Args:
    predictions (list of list of int): symbol ids of the answers, one list a board.
    references (list of list of int): the right symbol ids; a negative id or 0 (padding) means "no label".
Returns:
    exact_accuracy (float): share of boards whose labelled cells are all right.
    cell_accuracy (float): share of labelled cells that are right, averaged over boards.
"""


class PuzzleAccuracy(evaluate.Metric):
    def _info(self):
        boards = datasets.Sequence(datasets.Value("int32"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": boards, "references": boards}),
        )

    def _compute(self, predictions, references):
        return score_boards(predictions, references)
