"""Recipes of every variant and sweeps over them, with the command a user types."""

import csv
import json
import math
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from support.training import make_csv

from air_hf.cli import main
from air_hf.commands.sweep import parse_seeds
from air_hf.recipes import get_recipe, recipe_names
from air_hf.run_recipe import RunRecipe
from air_hf.runs.arguments import parse_recipe
from air_hf.runs.records import read_evaluations
from air_hf.runs.sweep import Execution, PlannedRun, _devices, share_cores
from air_hf.runs.sweep_table import compare, make_rows, paper, write_tables
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
    recipe, fields = parse_recipe(["--config", name])
    config = variant_config(recipe.variant, **fields)
    assert (recipe.variant, recipe.seed) == (name.split("/")[1], 0)
    assert (config.hidden_size, config.max_segments) == (512, 16)
    assert recipe.ema_decay == (0.999 if "trm" in name else 0)


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
    assert shlex.split(lines[0])[:4] == ["python", "-m", "air_hf", "train"]
    assert not (tmp_path / "sweep").exists()
    assert command(*words) == 0
    table = capsys.readouterr().out
    assert "exact at 2 steps, %" in table
    assert "| Lx_H | 0.0 | 1 | 0.0 |" in table
    assert "| 60.0 ± 2.0 |" in table
    assert "| the paper, Sudoku-Extreme 9×9, % |" in table  # beside 4x4 boards
    first = tmp_path / "sweep" / "Lx_H" / "seed-0"
    before = (first / "output.txt").read_text()
    scores = tmp_path / "sweep" / "Lx_Hx" / "seed-0" / "checkpoint" / "evaluation.json"
    scores.unlink()  # as if it had been cut off there: it was saved, and not evaluated
    assert command(*words, "--table_only") == 0
    with open(tmp_path / "sweep" / "table.csv", newline="") as file:
        assert [(row["name"], row["values"]) for row in csv.DictReader(file)] == [("Lx_H", "0.0")]
    for name in ("table.png", "curves.png"):
        assert (tmp_path / "sweep" / name).read_bytes().startswith(b"\x89PNG")
    (recorded,) = json.loads((tmp_path / "sweep" / "evaluations.json").read_text()).items()
    assert recorded[0] == "Lx_H, seed 0"
    assert [(line["step"], line["exact_accuracy"], line["num_puzzles"]) for line in recorded[1]] == [(2, 0.0, 10)]
    capsys.readouterr()
    facts = scores.parent / "training_state" / "manifest.json"
    facts.write_text(json.dumps({k: v for k, v in json.loads(facts.read_text()).items() if k != scores.name}))
    assert command(*words) == 0  # the second run had trained to its end, and is only evaluated
    assert capsys.readouterr().out.count("| 0.0 | 1 | 0.0 |") == 2
    assert len((tmp_path / "sweep" / "Lx_Hx" / "seed-0" / "metrics.jsonl").read_text().splitlines()) == 1
    assert (first / "output.txt").read_text() == before
    for change, message in (("--max_steps 3", "max_steps=2; this sweep has 3"),
                            ("--h_cycles 3", "h_cycles=1; this sweep has 3")):  # fmt: skip
        assert command(*words[:-1], f"{extra} {change}", "--table_only") == 2
        assert f"Lx_H/seed-0 was trained with {message}; choose another --output" in capsys.readouterr().err
    for record in ("evaluations.jsonl", "metrics.jsonl"):  # as where checkpoints alone were copied from elsewhere
        (first / record).unlink()
    assert command(*words, "--table_only") == 0
    assert capsys.readouterr().out.count("| 0.0 | 1 | 0.0 |") == 2
    facts = first / "checkpoint" / "training.json"
    facts.write_text(facts.read_text().replace(json.loads(facts.read_text())["data"]["test"]["sha256"], 64 * "0"))
    assert command(*words, "--table_only") == 2
    assert "Lx_Hx/seed-0 and " in (error := capsys.readouterr().err)
    assert f"Lx_H/seed-0 had different puzzles, and their recipes name the same ({tmp_path / 'data'})" in error


def test_a_sweep_over_fields_of_the_recipe(tmp_path, monkeypatch, capsys):
    """Every combination of an optimiser and a decay of the average, and the same fields one at a time."""
    monkeypatch.chdir(ROOT)
    make_csv(tmp_path / "data", train=40, test=10)
    extra = f"--train_data {tmp_path / 'data'} --max_steps 2 --warmup_steps 1 --hidden_size 32 --eval_every 1"
    words = ["sweep", "--seeds", "0", "--config", "examples/configs/sweep-4x4.yaml", "--output", tmp_path / "sweep",
             "--vary", "optimizer=adam_atan2,muon", "--vary", "ema_decay=0.99,0.9", "--extra", extra]  # fmt: skip
    assert command(*words, "--print") == 0
    names = [Path(shlex.split(line)[-3]).parts[-2] for line in capsys.readouterr().out.splitlines()]
    assert names == [f"optimizer={o},ema_decay={e}" for o in ("adam_atan2", "muon") for e in ("0.99", "0.9")]
    assert command(*words, "--one_at_a_time") == 0
    table = capsys.readouterr().out
    assert "base: optimizer=adam_atan2, ema_decay=0.99." in table
    assert command(*words[:7], "--seeds", "0-1", "--print") == 0  # nothing varied: seeds of the recipe
    lines = capsys.readouterr().out.splitlines()
    assert [Path(shlex.split(line)[-3]).parts[-2:] for line in lines] == [("base", "seed-0"), ("base", "seed-1")]
    assert "--variant" not in lines[0]
    with open(tmp_path / "sweep" / "table.csv", newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["base", "ema_decay=0.9", "optimizer=muon"]
    trained = json.loads(
        (tmp_path / "sweep" / "optimizer=muon" / "seed-0" / "checkpoint" / "training.json").read_text()
    )
    assert (trained["arguments"]["optimizer"], trained["arguments"]["ema_decay"]) == ("muon", 0.99)
    assert [e["step"] for e in read_evaluations(tmp_path / "sweep" / "base" / "seed-0")] == [1, 2]


def test_a_signal_while_a_run_is_started_reaches_it(tmp_path, monkeypatch):
    said, execution = [], Execution(1, lambda line: said.append(line))
    popen = subprocess.Popen

    def start(command, **options):
        child = popen([sys.executable, "-c", "import time; time.sleep(600)"], **options)
        execution._stop(signal.SIGTERM, None)  # before the sweep knows of the child
        return child

    monkeypatch.setattr("air_hf.runs.sweep.subprocess.Popen", start)
    run = PlannedRun("Lx_H", 0, tmp_path / "run", ())
    assert execution.run([run]) == [run]
    assert said == [f"Lx_H, seed 0: stopped with status -15, see {tmp_path / 'run' / 'output.txt'}"]


def test_runs_at_work_together_share_the_machine(tmp_path, monkeypatch):
    """Cores, where the recipe does not say how many; and GPUs, one each."""
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(12)))
    run = PlannedRun("Lx_H", 0, tmp_path / "run", ("--seed", "0"))
    assert share_cores(run, RunRecipe(), 3).words == ("--seed", "0", "--num_threads", "4")
    assert share_cores(run, RunRecipe(), 1) == share_cores(run, RunRecipe(num_threads=2), 3) == run
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert _devices(3) == ["0", "1", "0"]
    assert _devices(1) == [None]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert _devices(2) == ["5", "7"]
    variables = []

    class Failing:
        def __init__(self, command, env, **options):
            variables.append(env["CUDA_VISIBLE_DEVICES"])

        def wait(self):
            return 1

    monkeypatch.setattr("air_hf.runs.sweep.subprocess.Popen", Failing)
    runs = [PlannedRun("Lx_H", seed, tmp_path / f"seed-{seed}", ()) for seed in range(4)]
    Execution(2, lambda line: None).run(runs)
    assert len(variables) == 4
    assert set(variables) == {"5", "7"}


def test_comparison_at_equal_cost():
    """Scores are those of the last evaluation within the fewest steps, and within the fewest minutes, of any run."""
    slow = [{"step": s, "minutes": 2.0 * s, "exact_accuracy": s / 10} for s in (1, 2, 3, 4)]
    quick = [{"step": s, "minutes": 1.0 * s, "exact_accuracy": s / 20} for s in (2, 4, 6)]
    found = compare([("slow", slow), ("quick", quick)], None)
    assert (found.steps, found.minutes) == (4, 6.0)
    assert {row.name: row.mean for row in found.by_steps} == pytest.approx({"slow": 40, "quick": 20})
    assert {row.name: row.mean for row in found.by_minutes} == pytest.approx({"slow": 30, "quick": 30})


def test_a_table_says_how_many_runs_were_scored_in_time(tmp_path):
    curves = [("one", [{"step": 4, "minutes": minutes, "exact_accuracy": 0.5}]) for minutes in (1.0, 1.5, 1.2)]
    curves += [("other", [{"step": 4, "minutes": minutes, "exact_accuracy": 0.25}]) for minutes in (2.0, 3.0)]
    write_tables(compare(curves, None), curves, tmp_path, "title", "note")
    lines = (tmp_path / "table.md").read_text().splitlines()
    head = "| | exact at 4 steps, % | runs | each run | exact at 1.0 minutes, % |"
    place = lines.index(head)
    assert lines[place + 2 : place + 4] == [
        "| one | 50.0 ± 0.0 | 3 | 50.0 50.0 50.0 | 50.0 (1 of 3 runs) |",
        "| other | 25.0 ± 0.0 | 2 | 25.0 25.0 | (0 of 2 runs) |",
    ]


def test_a_sweep_told_to_stop_stops_its_runs(tmp_path):
    """The run at work is saved, the next one is not started, and nothing goes on in the background."""
    make_csv(tmp_path / "data", train=40, test=10)
    words = ["--variants", "Lx_H,Lx_Hx", "--seeds", "0", "--config", "examples/configs/sweep-4x4.yaml", "--extra",
             f"--train_data '{tmp_path / 'data'}' --max_steps 100000 --hidden_size 32 --compile off --log_every 1",
             "--output", str(tmp_path / "sweep")]  # fmt: skip
    sweep = subprocess.Popen(
        [sys.executable, "-m", "air_hf", "sweep", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    first = tmp_path / "sweep" / "Lx_H" / "seed-0"
    try:
        while not (first / "metrics.jsonl").exists():
            assert sweep.poll() is None
            time.sleep(0.05)
        children = psutil.Process(sweep.pid).children(recursive=True)
        sweep.send_signal(signal.SIGTERM)
        said = sweep.communicate(timeout=60)[0]
    finally:
        sweep.kill()
    assert "Lx_H, seed 0: stopped with status 75" in said
    assert "Lx_Hx" not in said
    assert sweep.returncode != 0
    assert not any(child.is_running() for child in children)
    assert (first / "checkpoint" / "model.safetensors").is_file()
    assert not (tmp_path / "sweep" / "Lx_Hx" / "seed-0" / "metrics.jsonl").exists()


def test_the_table():
    """Group means are means of variants, whatever their number of seeds; the paper's stand beside them."""
    groups = paper()["groups"]
    results = [(name, value) for name in groups["asymmetric"] for value in (0.6, 0.5)]
    results += [(name, 0.4) for name in groups["symmetric"]]
    rows = {row.name: row for row in make_rows(results, "sudoku")}
    assert rows["Lx_H"].mean == pytest.approx(55)
    assert rows["Lx_H"].deviation == pytest.approx(math.sqrt(50))
    assert rows["mean of asymmetric"].mean == pytest.approx(55)
    assert rows["mean of asymmetric"].paper == pytest.approx(59.1, abs=0.05)
    assert rows["Lx_H"].values == pytest.approx((60, 50))
    assert rows["asymmetric − symmetric"].mean == pytest.approx(15)
    assert rows["asymmetric − symmetric"].paper == pytest.approx(7.6, abs=0.05)
    assert "mean of ancestors" not in rows
    assert sorted(name for members in groups.values() for name in members) == sorted(VARIANTS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "sudoku", "--variants", "Lx_G"], "unknown variants Lx_G; known variants: L_Hx"),
        (["--task", "sudoku", "--seeds", "a"], "seeds is 'a'; expected e.g. 0-4 or 0,3,7"),
        (["--task", "sudoku", "--seeds", "3-1"], "seeds is '3-1'; 3-1 counts down"),
        (["--task", "sudoku", "--seeds", "0-2,1"], "seeds is '0-2,1', which names one more than once"),
        (
            ["--task", "sudoku", "--variants", "hrm,hrm"],
            "variant is varied over 'hrm,hrm', which names one more than once",
        ),
        (["--task", "sudoku", "--vary", "ema_decay"], "vary is 'ema_decay'; expected FIELD=VALUE,VALUE"),
        (["--task", "sudoku", "--vary", "momentum=1,2"], "vary names 'momentum', which is no field to vary"),
        (["--task", "sudoku", "--vary", "seed=1,2"], "vary names 'seed', which is no field to vary"),
        (["--task", "sudoku", "--vary", "variant=hrm"], "variant is varied more than once"),
        (["--config", "c.yaml", "--vary", "variant=Lx_G"], "unknown variants Lx_G; known variants: L_Hx"),
        (["--task", "sudoku", "--jobs", "0"], "jobs is 0; it must be at least 1"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--task", "sudoku", "--extra", "--max_stps 5"], "unrecognized arguments: --max_stps 5"),
        (["--task", "sudoku", "--vary", "ema_decay=0.9,1.99"], "ema_decay is 1.99"),
        (["--task", "sudoku", "--vary", "optimizer=muon,moun"], "error: argument --optimizer: invalid choice: 'moun'"),
    ],
)
def test_impossible_sweeps(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert command("sweep", "--output", tmp_path / "sweep", *words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()  # nothing was started


def test_a_run_that_fails_says_why(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    words = ["--variants", "Lx_H", "--seeds", "0", "--config", "examples/configs/sweep-4x4.yaml"]
    assert command("sweep", *words, "--output", tmp_path / "sweep", "--extra", f"--train_data {tmp_path / 'no'}") == 2
    said = capsys.readouterr()
    assert f"{tmp_path / 'no'}" in said.out.split("output.txt")[1]
    assert "no run is finished" in said.err


def test_seeds():
    assert parse_seeds("0-2,7") == [0, 1, 2, 7]


@pytest.mark.parametrize("facts", [{}, {"finished": False}])
def test_a_run_that_is_not_finished_has_no_scores(tmp_path, facts):
    run = PlannedRun("Lx_H", 0, tmp_path, ())
    assert run.scores is None
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "evaluation.json").write_text('{"exact_accuracy": 1}')
    (tmp_path / "checkpoint" / "training.json").write_text(json.dumps(facts))
    assert run.scores is None
