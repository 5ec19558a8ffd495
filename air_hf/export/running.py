"""An exported model at work: the recursion of the package with every update run by onnxruntime."""

from pathlib import Path

import torch

from air_hf.export.graphs import GRAPHS, input_fields
from air_hf.export.writing import MANIFEST, ExportError
from air_hf.modeling import AIRConfig, AIRForPuzzleSolving, AIRInputs, AIRModel, AIRState


class _ExportedRecursion(AIRModel):
    """The steps of the recursion as calls of graphs; the order of the steps is the base class's."""

    runners: dict

    def encode(self, input_ids: torch.LongTensor, puzzle_ids: torch.LongTensor | None = None) -> AIRInputs:
        self.check_symbols("input_ids", input_ids)
        arguments = {"input_ids": input_ids}
        if self.config.num_puzzle_ids > 1:
            arguments["puzzle_ids"] = torch.zeros_like(input_ids[:, 0]) if puzzle_ids is None else puzzle_ids
        outputs = self.runners["encode"](**arguments)
        fields = {name: outputs[name] for name in input_fields(self.config, "encode")}
        return AIRInputs(**({"x": outputs["z_h"]} | fields))  # where no update reads x, only its shape is asked for

    def initial_state(self, batch_size: int) -> AIRState:
        outputs = self.runners["encode"](
            input_ids=torch.zeros(batch_size, self.config.seq_len, dtype=torch.long),
            puzzle_ids=torch.zeros(batch_size, dtype=torch.long),
        )
        return AIRState(outputs["z_h"], outputs["z_l"], torch.zeros(batch_size, dtype=torch.long))

    def l_update(self, z_l: torch.Tensor, z_h: torch.Tensor, inputs: AIRInputs) -> torch.Tensor:
        return self._run("l_update", inputs, z_l=z_l, z_h=z_h)

    def h_update(self, z_h: torch.Tensor, z_l: torch.Tensor, inputs: AIRInputs) -> torch.Tensor:
        return self._run("h_update", inputs, z_h=z_h, z_l=z_l)

    def _run(self, graph: str, inputs: AIRInputs, **states: torch.Tensor) -> torch.Tensor:
        fields = {name: getattr(inputs, name) for name in input_fields(self.config, graph)}
        return self.runners[graph](**states, **fields)["z"]


class ExportedForPuzzleSolving(AIRForPuzzleSolving):
    """A model that solves, unrolls and is evaluated like any other, and cannot be trained: onnxruntime runs its steps.

    Args:
        config ([`AIRConfig`]): of the model that was exported.
        runners (`dict`): of each graph, what runs it.
    """

    def __init__(self, config: AIRConfig, runners: dict):
        with torch.device("meta"):  # the weights are in the graphs
            super().__init__(config)
            self.model = _ExportedRecursion(config)
        self.runners = self.model.runners = runners

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return self.runners["decode"](z=z)["logits"]

    def halting_logits(self, z_h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        outputs = self.runners["decode"](z=z_h)
        return outputs["q_halt_logits"], outputs["q_continue_logits"]


def load_exported(folder: str | Path) -> ExportedForPuzzleSolving:
    """Loads what `air-hf export` wrote; on a CPU, with as many threads as torch uses.

    Raises:
        ExportError: no such export.
    """
    import onnxruntime
    from transformers.exporters.base import ExportedModel

    folder = Path(folder)
    for name in ("config.json", MANIFEST, *(f"{graph}.onnx" for graph in GRAPHS)):
        if not (folder / name).is_file():
            raise ExportError(f"{folder} holds no export: {name} is missing")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    exported = ExportedModel.from_pretrained(folder, device="cpu", session_options=options)
    return ExportedForPuzzleSolving(AIRConfig.from_pretrained(folder), exported.runners).eval()
