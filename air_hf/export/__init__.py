"""Models for other runtimes: `export_checkpoint` writes ONNX graphs, `load_exported` runs them with onnxruntime."""

from air_hf.export.graphs import GRAPHS
from air_hf.export.running import ExportedForPuzzleSolving, load_exported
from air_hf.export.writing import FORMATS, MANIFEST, ExportError, export_checkpoint

__all__ = [
    "FORMATS",
    "GRAPHS",
    "MANIFEST",
    "ExportError",
    "ExportedForPuzzleSolving",
    "export_checkpoint",
    "load_exported",
]
