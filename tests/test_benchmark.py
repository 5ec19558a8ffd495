"""`air-hf benchmark`, as a user types it: small models, a few steps each."""

import json

import pytest
from support.training import TINY_RUN, make_csv

from air_hf.benchmark import SIZES, case_of_size
from air_hf.cli import main
from air_hf.run_recipe import RunRecipe


def command(*words) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(["benchmark", *map(str, words)])
    return stopped.value.code


def test_a_recipe_measured(tmp_path, capsys):
    make_csv(tmp_path / "data", "sudoku-6x6", train=40, test=4)
    recipe = {name.removeprefix("--"): value for name, value in zip(TINY_RUN[2::2], TINY_RUN[3::2], strict=True)}
    recipe |= {"train_data": str(tmp_path / "data"), "max_steps": 100}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    words = ["--config", tmp_path / "recipe.yaml", "--seconds", 0.05, "--threads", 1, "--output", tmp_path / "b.json"]
    assert command(*words) == 0
    printed = capsys.readouterr().out
    assert "sudoku-6x6, width 32, 1 layers, attention" in printed
    (found,) = json.loads((tmp_path / "b.json").read_text()).values()
    training = found["training"]
    assert found["machine"]["threads"] == 1
    assert training["compilations"] == 0
    assert training["ms"]["low"] <= training["ms"]["median"] <= training["ms"]["high"]
    assert training["puzzles_per_second"] == pytest.approx(16_000 / training["ms"]["median"])
    where = training["where_ms"]
    assert where.pop("step") == pytest.approx(sum(where.values()))
    assert min(where["matmul"], where["elementwise"], where["loss"], where["optimiser"], where["data"]) > 0
    # Neither a part nor its products can be done before they are.
    assert 0 < training["products_alone_ms"] < training["ms"]["high"]
    assert 0 < found["evaluation"]["share_of_peak"] < 1
    # A board takes all its segments, in more time than one.
    assert found["solving"]["puzzles_per_second"] < found["evaluation"]["puzzles_per_second"]


def test_a_checkpoint_measured(make_model, tmp_path, capsys):
    make_model(puzzle="sudoku-4x4").save_pretrained(tmp_path)
    assert command("--model", tmp_path, "--seconds", 0.01, "--threads", 1) == 0
    assert f"{tmp_path}: sudoku-4x4, width 32" in capsys.readouterr().out


@pytest.mark.parametrize("name", SIZES)
def test_sizes(name):
    case = case_of_size(name)
    case.puzzles.check_model(case.config)
    assert isinstance(case.recipe, RunRecipe)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sizes", "sudoku"], "unknown size 'sudoku'; expected one of sudoku-6x6, sudoku-9x9, paper-sudoku"),
        (["--threads", "0"], "threads is 0; it must be positive"),
        (["--seconds", "nan"], "seconds is nan; it must be positive"),
        (["--config", "nowhere.yaml"], "recipe 'nowhere.yaml' does not exist"),
    ],
)
def test_what_cannot_be_measured(words, message, capsys):
    assert command(*words) == 2
    assert message in capsys.readouterr().err


def test_a_checkpoint_without_a_puzzle(make_model, tmp_path, capsys):
    make_model(puzzle=None).save_pretrained(tmp_path)
    assert command("--model", tmp_path) == 2
    assert "config.json names no puzzle; benchmark the recipe" in capsys.readouterr().err
