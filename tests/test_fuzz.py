"""Damaged checkpoints, configurations, tokenizers, files of puzzles, recipes and command lines: each is read rightly or
refused in words, none raises anything raw, none is taken for something else, none takes over 20 seconds.

A case depends on its number alone, so `find_defect(draw_case(good, place, 123)[1])` repeats number 123.
"""

from collections import Counter
from pathlib import Path

import pytest
from support.fuzz import draw_case, find_defect, write_records

from air_hf.puzzles import get_puzzle
from air_hf.tokenization import build_tokenizer

SAMPLE, ALL = 300, 10_000


@pytest.fixture
def good(make_model, tmp_path, monkeypatch) -> Path:
    """A checkpoint with nothing wrong; no Hub is in reach."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # of the processes that push
    folder = tmp_path / "good"
    make_model(max_segments=2).save_pretrained(folder)
    build_tokenizer(get_puzzle("sudoku-4x4")).save_pretrained(folder)
    write_records(folder)
    return folder


def defects(good: Path, numbers: range) -> list[str]:
    found, drawn = [], Counter()
    for number in numbers:
        room, case = draw_case(good, good.parent / "damaged", number)
        drawn[room] += 1
        if defect := find_defect(case):
            found.append(f"case {number}, {case.name}: {defect}")
    assert len(drawn) == 4
    return found


def test_a_sample_of_damaged_inputs(good):
    assert not defects(good, range(SAMPLE))


@pytest.mark.slow
def test_all_damaged_inputs(good):
    assert not defects(good, range(SAMPLE, ALL))
