"""Damaged inputs of every kind: each is read rightly or refused in words that name what is wrong, none raises anything
raw, none is taken for something else, none takes over 20 seconds.

A case depends on its number alone, so `find_defect(draw_case(materials, 123)[1])` repeats number 123.
"""

from collections import Counter

import pytest
from support.fuzz import find_defect, write_records
from support.fuzz_rooms import REPOSITORY, Materials, draw_case, make_learner, push_here
from support.hub_processes import client_pool
from support.training import small_stream

from air_hf.dataset_builders.folder import build_folder
from air_hf.dataset_builders.sudoku import SudokuExtreme
from air_hf.puzzles import get_puzzle
from air_hf.runs import save_checkpoint
from air_hf.tokenization import build_tokenizer

pytest_plugins = ["support.hub_fixtures"]
SAMPLE, ALL = 200, 10_000


@pytest.fixture
def materials(make_model, tmp_path, monkeypatch, hub) -> Materials:
    """Things with nothing wrong; no Hub is in reach but of the cases that ask for it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # of the processes that push
    folder = tmp_path / "materials"
    make_model(max_segments=2).save_pretrained(folder / "checkpoint")
    build_tokenizer(get_puzzle("sudoku-4x4")).save_pretrained(folder / "checkpoint")
    write_records(folder / "checkpoint")
    options = {"puzzle": "sudoku-4x4", "num_train": 8, "num_test": 4, "subsample_size": 8, "seed": 1}
    builder = SudokuExtreme("1k", source="generate", cache_dir=str(tmp_path / "cache"), **options)
    build_folder([builder], folder / "set", "apache-2.0")
    learner = make_learner(folder / "checkpoint")
    learner.train_step(small_stream(8).batch(0))
    save_checkpoint(learner, folder / "run")
    (folder / "nothing").mkdir()
    with client_pool(hub, tmp_path / "home") as pool:
        assert pool.submit(push_here, folder / "checkpoint", REPOSITORY).result()[0] == "done"
        yield Materials(folder, hub, pool)


def defects(materials: Materials, numbers: range) -> list[str]:
    found, drawn = [], Counter()
    for number in numbers:
        room, case = draw_case(materials, number)
        drawn[room] += 1
        if defect := find_defect(case):
            found.append(f"case {number}, {case.name}: {defect}")
    assert len(drawn) == 9
    return found


def test_a_sample_of_damaged_inputs(materials):
    assert not defects(materials, range(SAMPLE))


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_all_damaged_inputs(materials):
    found = defects(materials, range(SAMPLE, ALL))
    assert not found, "\n".join(found)
