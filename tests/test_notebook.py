"""The notebook runs from top to bottom, its sizes and nothing else made small."""

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "examples" / "notebooks" / "first_steps.ipynb"
SMALL = {"PUZZLE": "sudoku-4x4", "TRAIN": 40, "TEST": 70, "STEPS": 4, "WIDTH": 32, "SEGMENTS": 2}


def cell(notebook, tag: str):
    (found,) = [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]
    return found


def assigned(source: str) -> dict:
    names = {}
    exec(source, names)
    return {name: value for name, value in names.items() if name.isupper()}


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")  # of its `!air-hf`
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    parameters = cell(notebook, "parameters")
    assert assigned(parameters.source).keys() == SMALL.keys()
    parameters.source = "\n".join(f"{name} = {value!r}" for name, value in SMALL.items())
    cell(notebook, "install").source = ""
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output.get("text", "") for output in outputs)
    assert "error" not in printed
    for text in ("40 sudoku-4x4 puzzles", "exact accuracy", "confidence", "forgetting z_h"):
        assert text in printed
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 1


def test_the_notebook_is_committed_without_traces_of_a_machine():
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert "/home/" not in text
    assert "/work/" not in text
    nbformat.validate(nbformat.read(NOTEBOOK, as_version=4))
