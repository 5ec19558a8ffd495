"""Recipes of every variant and sweeps over them, with the command a user types."""

import csv
import json
import math
import shlex
from pathlib import Path

import pytest
from support.training import make_csv

from air_hf.cli import main
from air_hf.commands.sweep import parse_seeds
from air_hf.recipes import get_recipe, recipe_names
from air_hf.sweep import ASYMMETRIC, GROUPS, SYMMETRIC, Run, collect
from air_hf.training import parse_arguments
from air_hf.variants import VARIANTS, variant_config

ROOT = Path(__file__).parent.parent


def command(*words) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    return stopped.value.code


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_a_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(get_recipe(name)["train_data"]).mkdir(parents=True)
    arguments, fields = parse_arguments(["--config", name])
    config = variant_config(arguments.variant, **fields)
    assert (arguments.variant, arguments.seed) == (name.split("/")[1], 0)
    assert (config.hidden_size, config.max_segments) == (512, 16)
    assert arguments.ema_decay == (0.999 if "trm" in name else 0)


def test_recipes_command(capsys):
    assert command("recipes") == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in recipe_names())
    assert len(recipe_names()) == 36
    assert command("recipes", "maze/trm-att") == 0
    assert "l_cycles: 4" in capsys.readouterr().out
    assert command("recipes", "chess/Lx_H") == 2
    assert "unknown recipe 'chess/Lx_H'; expected TASK/VARIANT, e.g. 'sudoku/L_Hx'" in capsys.readouterr().err


def test_a_sweep_runs_resumes_and_tabulates(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    make_csv(tmp_path / "data", train=40, test=10)
    extra = f"--train_data {tmp_path / 'data'} --max_steps 2 --warmup_steps 1 --hidden_size 32"
    words = ["sweep", "--variants", "Lx_H,Lx_Hx", "--seeds", "0", "--config", "examples/configs/sweep-4x4.yaml",
             "--output", tmp_path / "sweep", "--extra", extra]  # fmt: skip
    assert command(*words, "--print") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert shlex.split(lines[0])[:3] == ["accelerate", "launch", "examples/train.py"]
    assert not (tmp_path / "sweep").exists()
    assert command(*words) == 0
    table = capsys.readouterr().out
    assert "| Lx_H | 0.0 | 1 | 0.0 | 60.0 ± 2.0 |" in table
    first = tmp_path / "sweep" / "Lx_H" / "seed-0"
    before = (first / "output.txt").read_text()
    (tmp_path / "sweep" / "Lx_Hx" / "seed-0" / "finished.json").unlink()  # as if it had been cut off there
    assert command(*words, "--table_only") == 0
    with open(tmp_path / "sweep" / "table.csv", newline="") as file:
        assert [(row["name"], row["values"]) for row in csv.DictReader(file)] == [("Lx_H", "0.0")]
    assert (tmp_path / "sweep" / "table.png").read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()
    assert command(*words) == 0  # the second run had trained to its end, and only notes it
    assert capsys.readouterr().out.count("| 0.0 | 1 | 0.0 |") == 2
    assert (tmp_path / "sweep" / "Lx_Hx" / "seed-0" / "output.txt").read_text().count("nothing was left to train") == 1
    assert (first / "output.txt").read_text() == before


def test_the_table(tmp_path):
    """Group means are means of variants, whatever their number of seeds; the paper's stand beside them."""
    accuracies = {name: [0.6, 0.5] for name in ASYMMETRIC} | {name: [0.4] for name in SYMMETRIC}
    runs = []
    for name, values in accuracies.items():
        for seed, value in enumerate(values):
            run = Run(name, seed, tmp_path / name / str(seed), [])
            run.folder.mkdir(parents=True)
            (run.folder / "finished.json").write_text(json.dumps({"exact_accuracy": value}))
            runs.append(run)
    rows = {row.name: row for row in collect(runs, "sudoku")}
    assert rows["Lx_H"].mean == pytest.approx(55)
    assert rows["Lx_H"].deviation == pytest.approx(math.sqrt(50))
    assert rows["mean of asymmetric"].mean == pytest.approx(55)
    assert rows["mean of asymmetric"].paper == pytest.approx(59.1, abs=0.05)
    assert rows["Lx_H"].values == pytest.approx((60, 50))
    assert rows["asymmetric − symmetric"].mean == pytest.approx(15)
    assert rows["asymmetric − symmetric"].paper == pytest.approx(7.6, abs=0.05)
    assert "mean of ancestors" not in rows
    assert sorted(name for members in GROUPS.values() for name in members) == sorted(VARIANTS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "sudoku", "--variants", "Lx_G"], "unknown variants Lx_G; known variants: L_Hx"),
        (["--task", "sudoku", "--seeds", "a"], "seeds is 'a'; expected e.g. 0-4 or 0,3,7"),
        (["--task", "sudoku", "--jobs", "0"], "jobs is 0; it must be at least 1"),
        (["--task", "sudoku", "--script", "nowhere.py"], "nowhere.py does not exist; run from a checkout"),
    ],
)
def test_impossible_sweeps(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert command("sweep", "--output", tmp_path / "sweep", *words) == 2
    assert message in capsys.readouterr().err


def test_seeds():
    assert parse_seeds("0-2,7") == [0, 1, 2, 7]
