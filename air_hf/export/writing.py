"""A checkpoint as a folder of ONNX graphs, written by transformers' exporter and checked against the model."""

import importlib.util
import json
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from air_hf.export.graphs import GRAPHS, Graph
from air_hf.files import atomic_folder, sha256, write_text
from air_hf.hub import load_model
from air_hf.hub.loading import weights_sha256
from air_hf.modeling import AIRForPuzzleSolving
from air_hf.puzzles import puzzle_of

FORMATS = ("onnx",)
MANIFEST = "export.json"  # transformers' name for it
TOLERANCE = 1e-4  # of every tensor of the graphs, as a share of the model's largest number in it, or of 1
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class ExportError(ValueError):
    """An export that cannot be made, or a folder that holds none."""


def export_checkpoint(
    source: str | Path,
    output: str | Path,
    *,
    format: str = "onnx",
    attentions: bool = False,
    int8: bool = False,
    revision: str | None = None,
    cache_dir: str | None = None,
) -> Path:
    """Writes the graphs [`GRAPHS`] of a checkpoint, their weights, config.json and export.json into a folder.

    The batch is free in every graph. [`load_exported`] gives the model back with onnxruntime as its engine; the graphs
    are checked against the checkpoint that way before the folder takes its name. transformers' `ExportedModel` reads
    the folder, too.

    Args:
        source (`str` or `Path`): a checkpoint folder, or a repository on the Hub.
        output (`str` or `Path`): the folder; an older export in it is replaced.
        format (`str`): one of [`FORMATS`].
        attentions (`bool`): the updates also give their attention maps (layers, B, heads, T, T).
        int8 (`bool`): 8-bit weights, with a scale for every 32, in the matrix products of the updates. Activations stay
            float32: rounding them, too, as onnxruntime's dynamic quantisation does, leaves nothing of a recursion's
            accuracy (docs/export.md).
        revision (`str`, *optional*): branch, tag or commit of the repository.
        cache_dir (`str`, *optional*): for what is downloaded.

    Returns:
        `Path`: the folder.

    Raises:
        ExportError: an unknown format, a missing package, maps asked of a model without attention, an output folder
            that holds something else, or graphs that do not give the model's numbers.
        CheckpointError: no checkpoint.
    """
    output = Path(output)
    _check_request(format, output)
    model = load_model(source, revision=revision, cache_dir=cache_dir, dtype=torch.float32, attn_implementation="eager")
    if attentions and model.config.mixer != "attention":
        raise ExportError(f'{source} has no attention to export: its mixer is "{model.config.mixer}"')
    with atomic_folder(output) as folder:
        graphs = {name: Graph(model, name, attentions and name.endswith("update")) for name in GRAPHS}
        _write_graphs(graphs, folder, int8)
        facts = _facts(graphs, int8) | {"source": _source(source, revision, cache_dir)}
        facts["files"] = {path.name: sha256(path) for path in sorted(folder.iterdir()) if ".onnx" in path.suffixes}
        facts["largest_difference"] = difference = _largest_difference(model, folder)
        if not difference <= (math.inf if int8 else TOLERANCE):  # not a number is no agreement
            raise ExportError(f"the graphs of {source} differ from it by {difference:.1e}, more than {TOLERANCE:g}")
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        write_text(folder / MANIFEST, json.dumps(manifest | {"air_hf": facts}, indent=2, ensure_ascii=False) + "\n")
    return output


def _check_request(format: str, output: Path) -> None:
    if format not in FORMATS:
        raise ExportError(f"format {format!r} is unknown; expected one of {', '.join(FORMATS)}")
    missing = [package for package in _PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        raise ExportError(f"exporting needs {', '.join(missing)}, not installed here: pip install 'air-hf[export]'")
    if output.exists() and not (output / MANIFEST).is_file() and (output.is_file() or any(output.iterdir())):
        raise ExportError(f"{output} exists and holds no export; choose another folder, or remove it")


def _write_graphs(graphs: dict[str, Graph], folder: Path, int8: bool) -> None:
    from transformers.exporters import OnnxConfig
    from transformers.exporters.base import ExportedModel
    from transformers.exporters.exporter_onnx import OnnxExporter

    batch = torch.export.Dim("batch", min=1)
    parts = {}
    with _quiet():
        for name, graph in graphs.items():
            config = OnnxConfig(dynamic_shapes={argument: {0: batch} for argument in graph.inputs})
            parts[name] = OnnxExporter().export(graph, graph.examples(), config).components["model"]
            if int8 and name.endswith("update"):  # tables and heads are small
                parts[name].program = _with_8_bits(parts[name].program)
        ExportedModel(parts, "onnx").save_pretrained(folder)
    # As data only: without the code that a checkpoint brings along.
    write_text(folder / "config.json", graphs["encode"].model.config.to_json_string(use_diff=False))


def _with_8_bits(program):
    """An `onnx_ir.Model` whose matrix products with a weight are onnxruntime's MatMulNBits of 8 bits."""
    import onnx_ir
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(onnx_ir.to_proto(program), bits=8, block_size=32, is_symmetric=True)
    quantizer.process()
    return onnx_ir.from_proto(quantizer.model.model)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporters, which report every pass, and every package they were not tested with: what comes out is
    checked against the model."""
    names = ("torch.onnx", "onnxscript", "onnx_ir", "onnxruntime.quantization", "")
    loggers = [logging.getLogger(name) for name in names]
    levels, verbosity = [logger.level for logger in loggers], transformers_logging.get_verbosity()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _facts(graphs: dict[str, Graph], int8: bool) -> dict:
    """What somebody needs to run the graphs without this package."""
    config = graphs["encode"].model.config
    puzzle = puzzle_of(config)
    return {
        "puzzle": config.puzzle,
        "symbols": puzzle and puzzle.symbols,  # of ids 1, 2, ...; 0 is padding
        "rows": puzzle and puzzle.rows,
        "columns": puzzle and puzzle.columns,
        "vocab_size": config.vocab_size,
        "seq_len": config.seq_len,
        "hidden_size": config.hidden_size,
        "num_positions": config.num_positions,  # the cells are the last seq_len of them
        "max_segments": config.max_segments,
        "schedule": [update.level for update in config.schedule],
        "halting": config.halting,
        "loss_function": config.loss_function,  # whose probabilities the logits stand for
        "weights": "int8" if int8 else "float32",
        "graphs": {name: {"inputs": graph.inputs, "outputs": graph.outputs} for name, graph in graphs.items()},
    }


def _source(source: str | Path, revision: str | None, cache_dir: str | None) -> dict:
    name = Path(source).resolve().name if Path(source).is_dir() else str(source)
    return {
        "checkpoint": name,
        "revision": revision,
        "sha256": weights_sha256(source, revision=revision, cache_dir=cache_dir),
    }


@torch.no_grad()
def _largest_difference(model: AIRForPuzzleSolving, folder: Path) -> float:
    """The largest difference between what model and graphs make of the same, step by step of two segments.

    Three random boards. Every update begins where the model's own last one ended: over many updates a difference of
    rounding may grow, which is the model's nature and no fault of the graphs. A share of the tensor's largest number
    where that is above 1: logits of a trained model reach hundreds.
    """
    from air_hf.export.running import load_exported

    exported = load_exported(folder)
    shape = (3, model.config.seq_len)  # not the batch that was traced
    ids = torch.randint(model.config.vocab_size, shape, generator=torch.Generator().manual_seed(0))
    inputs, theirs = model.model.encode(ids), exported.model.encode(ids)
    state, first = model.initial_state(len(ids)), exported.initial_state(len(ids))
    pairs = [(state.z_h, first.z_h), (state.z_l, first.z_l)]
    for _ in range(2):
        for update, after in model.model.updates(inputs, state):
            if update.level == "L":
                pairs.append((after.z_l, exported.model.l_update(state.z_l, state.z_h, theirs)))
            else:
                pairs.append((after.z_h, exported.model.h_update(state.z_h, state.z_l, theirs)))
            state = after
        pairs.append((model.decode(state.z_h), exported.decode(state.z_h)))
        pairs += zip(model.halting_logits(state.z_h), exported.halting_logits(state.z_h), strict=True)
    return float(
        torch.stack([(mine - other).abs().max() / mine.abs().max().clamp(min=1) for mine, other in pairs]).max()
    )
