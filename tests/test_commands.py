"""What a user types, end to end on tiny puzzles: train, resume, evaluate, solve, load in a fresh process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import prepare_multi_gpu_env
from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
from safetensors.torch import load_file
from support.training import make_csv
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers.utils.logging import is_progress_bar_enabled

import air_hf
from air_hf import cli
from air_hf.data import load_puzzles
from air_hf.variants import VARIANTS

ROOT = Path(__file__).parent.parent
TINY = ["--hidden_size", "32", "--num_attention_heads", "2", "--num_hidden_layers", "1", "--max_segments", "3",
        "--compile", "off", "--num_threads", "1", "--batch_size", "16", "--log_every", "4",
        "--warmup_steps", "3"]  # fmt: skip


def run(*words, check=True) -> subprocess.CompletedProcess:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, cwd=ROOT)
    assert not check or done.returncode == 0, done.stderr
    return done


def train(data, output, *words, check=True, launcher=()):
    launch = [sys.executable, "-m", "accelerate.commands.launch", *launcher, "examples/train.py"]
    config = ["--config", "examples/configs/quickstart.yaml", "--train_data", data, "--output_dir", output]
    return run(*launch, *config, *TINY, *words, check=check)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_csv(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("run")
    return output, train(data, output, "--max_steps", "8", "--eval_every", "4")


def test_train_leaves_a_hub_checkpoint_and_its_records(trained):
    output, done = trained
    assert {path.name for path in (output / "checkpoint").iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "configuration_air.py",
        "modeling_air.py", "pipeline_air.py", "rules_air.py", "solving_air.py", "weights_air.py",
        "evaluation.json", "training.json", "training_state", "README.md",
        "images",
    }  # fmt: skip
    assert {path.name for path in output.iterdir()} == {
        "checkpoint", "checkpoints", "metrics.jsonl", "evaluations.jsonl", "run.lock",
    }  # fmt: skip
    metrics = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == [4, 8]
    assert all(line["lm_loss"] > 0 and line["puzzles_per_second"] > 0 for line in metrics)
    evaluations = [json.loads(line) for line in (output / "evaluations.jsonl").read_text().splitlines()]
    assert [line["step"] for line in evaluations] == [4, 8]
    assert json.loads((output / "checkpoint" / "evaluation.json").read_text())["num_puzzles"] == 20
    for text in ("exact accuracy", "20 of sudoku-4x4", "training steps            8", "parameters", "checkpoint:"):
        assert text in done.stdout


def test_evaluate_repeats_what_training_measured(data, tmp_path):
    output = tmp_path / "run"
    train(data, output, "--max_steps", "4", "--mixed_precision", "no")
    scores = tmp_path / "scores.json"
    done = run(sys.executable, "examples/evaluate.py", "--checkpoint", output / "checkpoint", "--data", data,
               "--output", scores)  # fmt: skip
    measured = json.loads((output / "checkpoint" / "evaluation.json").read_text())
    again = json.loads(scores.read_text())
    # Both in float32: the symbols of a model so young nearly tie, and bfloat16 would change many cells.
    assert again["cell_accuracy"] == pytest.approx(measured["cell_accuracy"], abs=0.01)
    for name in ("num_parameters", "num_puzzles", "step", "ema", "copy_accuracy"):
        assert again[name] == measured[name]
    assert "20 of sudoku-4x4" in done.stdout


def test_solve_draws_boards_and_a_picture(trained, data, tmp_path):
    output, _ = trained
    picture = tmp_path / "states.png"
    done = run(sys.executable, "examples/solve.py", "--checkpoint", output / "checkpoint", "--data", data / "test.csv",
               "--picture", picture, "--segments", "2")  # fmt: skip
    assert done.stdout.count("solution") == done.stdout.count("the model's answer") == 3
    assert done.stdout.count("--+--") >= 9
    assert picture.read_bytes().startswith(b"\x89PNG")


LOAD = """
import sys, torch
if {hidden}: sys.modules["air_hf"] = None
else: import air_hf
from transformers import AutoModel, AutoTokenizer
model = AutoModel.from_pretrained({folder!r}, trust_remote_code={hidden}).eval()
tokenizer = AutoTokenizer.from_pretrained({folder!r}, trust_remote_code=False)  # it needs no code of ours
ids = tokenizer("1...\\n..2.\\n....\\n...3", return_tensors="pt").input_ids
with torch.no_grad():
    answer, logits = model.solve(ids).sequences, model(input_ids=ids).logits
print(type(model).__module__.split(".")[0], answer.shape[1], logits.sum().item())
"""


def test_checkpoint_loads_in_a_fresh_process_with_and_without_the_package(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    folder = str(trained[0] / "checkpoint")
    ours, remote = (
        run(sys.executable, "-c", LOAD.format(hidden=hidden, folder=folder)).stdout.splitlines()[-1].split()
        for hidden in (False, True)
    )
    assert ours[0] == "air_hf"
    assert remote[0] == "transformers_modules"
    assert ours[1:] == remote[1:] == ["16", ours[2]]


def test_what_is_recorded_of_the_scores(trained, data, tmp_path):
    """The name of the file and its SHA-256, no path, and whether it was scored whole."""
    checkpoint = trained[0] / "checkpoint"
    scores, facts = (json.loads((checkpoint / name).read_text()) for name in ("evaluation.json", "training.json"))
    puzzles = load_puzzles(data, split="test")
    expected = {"data": "test.csv", "data_sha256": puzzles.sha256(), "dataset": None, "dataset_config": None,
                "dataset_revision": None, "split": "test", "whole_split": True}  # fmt: skip
    assert {name: scores[name] for name in expected} == expected
    assert facts["data"]["test"]["sha256"] == puzzles.sha256()
    assert facts["data"]["train"]["name"] == "train.csv"
    public = (checkpoint / "evaluation.json").read_text() + (checkpoint / "training.json").read_text()
    assert str(data) not in public
    assert str(trained[0]) not in public
    run(sys.executable, "-m", "air_hf", "evaluate", "--checkpoint", checkpoint, "--data", data, "--limit", 8,
        "--output", tmp_path / "new" / "scores.json")  # fmt: skip
    part = json.loads((tmp_path / "new" / "scores.json").read_text())
    assert (part["data"], part["whole_split"], part["num_puzzles"]) == ("test.csv (8 of 20, seed 0)", False, 8)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["scores.json"]


def test_a_run_is_not_overwritten(trained, data):
    output, _ = trained
    before = (output / "metrics.jsonl").read_text()
    done = train(data, output, "--max_steps", "8", check=False)
    assert f"{output} already holds a run; choose another output_dir, or --resume_from latest" in done.stderr
    assert (output / "metrics.jsonl").read_text() == before


def test_resume_ends_where_an_uninterrupted_run_does(trained, data, tmp_path):
    whole, _ = trained
    train(data, tmp_path / "first", "--max_steps", "8", "--max_minutes", "1e-9")  # stops after its first step
    checkpoint = tmp_path / "first" / "checkpoint"
    assert json.loads((checkpoint / "training_state" / "state.json").read_text())["step"] == 1
    curve = json.loads((checkpoint / "training.json").read_text())["tracker_run"]
    train(data, tmp_path / "first", "--max_steps", "8", "--resume_from", checkpoint)  # goes on in the same folder
    lines = (tmp_path / "first" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 4, 8]
    assert json.loads((checkpoint / "training.json").read_text())["tracker_run"] == curve
    expected = load_file(whole / "checkpoint" / "training_state" / "state.safetensors")
    resumed = load_file(tmp_path / "first" / "checkpoint" / "training_state" / "state.safetensors")
    assert expected.keys() == resumed.keys()
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)


def test_a_tracker_gets_the_curves_and_the_recipe(data, tmp_path):
    train(data, tmp_path / "run", "--max_steps", "4", "--report_to", "tensorboard")
    accumulator = EventAccumulator(str(tmp_path / "run" / "air-hf"))
    accumulator.Reload()
    assert {"train/lm_loss", "train/puzzles_per_second", "test/exact_accuracy"} <= set(accumulator.Tags()["scalars"])
    assert [event.step for event in accumulator.Scalars("train/lm_loss")] == [4]


@pytest.mark.parametrize(("name", "here", "everywhere"), [("1-gpu", 1, 1), ("8-gpu", 8, 8), ("2-machines", 8, 16)])
def test_launcher_configs_dry_run(name, here, everywhere):
    """What `accelerate launch` makes of the file, short of starting the processes."""
    config = str(ROOT / "examples" / "configs" / "accelerate" / f"{name}.yaml")
    where = ["--machine_rank", "1", "--main_process_ip", "10.0.0.1"] if name == "2-machines" else []
    parsed = launch_command_parser().parse_args(["--config_file", config, *where, "examples/train.py"])
    words, _, mixed_precision_given = _validate_launch_command(parsed)
    assert (words.num_processes, words.mixed_precision) == (everywhere, "bf16")
    assert mixed_precision_given
    assert words.multi_gpu == (everywhere > 1)
    if words.multi_gpu:
        prepare_multi_gpu_env(words)
        assert words.nproc_per_node == str(here)
    if where:
        assert (words.nnodes, words.node_rank, words.rdzv_endpoint) == ("2", 1, "10.0.0.1:29500")


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_trains_from_the_command_line(variant, data, tmp_path):
    mixer = ["--mixer", "mlp" if variant == "trm-mlp" else "attention"]
    positions = ["--position_embedding", "none" if variant == "trm-mlp" else "rotary"]
    train(data, tmp_path, "--variant", variant, "--max_steps", "4", *mixer, *positions)
    assert (tmp_path / "checkpoint" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--train_data", "nowhere.csv", "--test_data", "nowhere.csv"], "nowhere.csv does not exist"),
        (["--variant", "Lx_G"], "unknown variant 'Lx_G'; known variants: L_Hx"),
        (
            ["--mixer", "attention", "--num_attention_heads", "5"],
            "train: error: num_attention_heads (5) does not divide hidden_size (32).\n",
        ),
        (["--train_limit", "1000"], "a subset of 1000 puzzles was asked for; there are 60"),
        (["--attention", "flash_attention_2"], "FlashAttention2"),
        (["--resume_from", "nowhere"], "nowhere/training_state/state.json does not exist"),
        (["--seed", "-1"], "seed is -1; it must not be negative"),
        (["--init_from", "nowhere/at/all"], "checkpoint folder nowhere/at/all does not exist"),
    ],
)
def test_train_refuses(words, message, data, tmp_path, capsys):
    """In this process, where importing everything is paid for once; the script prints the same."""
    command = ["train", "--config", "examples/configs/quickstart.yaml", "--train_data", data, "--output_dir",
               tmp_path / "run", *TINY, *words]  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in command])
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert message in error
    assert not (tmp_path / "run").exists()


def test_the_script_refuses_as_the_command_does(data, tmp_path):
    done = run(sys.executable, "examples/train.py", "--config", "examples/configs/quickstart.yaml", "--train_data",
               data, "--output_dir", tmp_path / "run", *TINY, "--variant", "Lx_G", check=False)  # fmt: skip
    assert done.returncode == 2
    assert "train.py: error: unknown variant 'Lx_G'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("checkpoint", "puzzles", "message"),
    [
        ("a/missing/folder", None, "checkpoint folder a/missing/folder does not exist"),
        (".", None, ". holds no checkpoint: config.json is missing"),
        (None, "9x9.csv", "row 1, question: sudoku-4x4: the board has 81 symbols, expected 16"),
    ],
)
def test_evaluate_refuses(checkpoint, puzzles, message, trained, data, tmp_path, capsys):
    (tmp_path / "9x9.csv").write_text(f"question,answer\n{'.' * 81},{'.' * 81}\n")
    checkpoint = checkpoint or trained[0] / "checkpoint"
    source = data if puzzles is None else tmp_path / puzzles
    with pytest.raises(SystemExit) as stopped:
        cli.main(["evaluate", "--checkpoint", str(checkpoint), "--data", str(source)])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data", "generate", "--puzzle", "sudoku-4x4", "--train", "1", "--test", "1", "--output", ""],
         "air-hf data generate: error: argument --output: '' names nothing"),
        (["nothing"], "air-hf: error: argument command: invalid choice: 'nothing'"),
        (["solve", "--batch_size", "x", "."], "air-hf solve: error: argument --batch_size: invalid"),
        (["train", "--output_dir", ""], "air-hf train: error: output_dir is ''; leave it out, or say which"),
        (["train", "--config", "docs"], "air-hf train: error: recipe 'docs' is a folder; expected a YAML file, or"),
        (["train", "--config", os.devnull], f"air-hf train: error: recipe '{os.devnull}' is a device; expected a YAML"),
        (["train", "--num_threads", "100000000000"], "air-hf train: error: num_threads is 100000000000; it must be"),
        (["train", "--batch_size", "1" + "0" * 20],
         f"air-hf train: error: batch_size is 1{'0' * 20}; it must be positive, and at most 2**20"),
        (["train", "--batch_size", "2000000"], "air-hf train: error: batch_size is 2000000; it must be positive, and"),
        (["train", "--images_per_puzzle", "1" + "0" * 20], f"air-hf train: error: images_per_puzzle is 1{'0' * 20}"),
        (["data", "build", "sudoku", "--source", "csv", "--output", "x", "--cache_dir", "a\0b"],
         r"air-hf data build: error: argument --cache_dir: 'a\x00b' names nothing"),
        (["solve", "x.csv", "--output", "\0"], r"air-hf solve: error: argument --output: '\x00' names nothing"),
        (["evaluate", "--checkpoint", "sudoku-4x4", "--data", "x", "--output", "\0"],
         r"air-hf evaluate: error: argument --output: '\x00' names nothing"),
        (["evaluate", "--checkpoint", "sudoku-4x4", "--data", "x", "--device", "meta"],
         "air-hf evaluate: error: argument --device: 'meta' cannot be used: nothing is calculated there"),
        (["train", "--max_steps", "x"], "air-hf train: error: argument --max_steps: invalid int value: 'x'"),
    ],
)  # fmt: skip
def test_a_bad_command_line_is_one_line(words, said, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert line.startswith(said)


def test_version(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"air-hf {air_hf.__version__}\n"


def test_bars_of_weights_are_hidden_and_those_of_downloads_are_not(capsys):
    enable_progress_bars()
    with pytest.raises(SystemExit):
        cli.main(["recipes"])
    assert not is_progress_bar_enabled()
    assert not are_progress_bars_disabled()


def test_evaluate_looks_at_its_output_first(data, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["evaluate", "--checkpoint", "sudoku-4x4", "--data", str(data), "--output", str(tmp_path)])
    assert ended.value.code == 2
    assert f"{tmp_path} is a folder; expected a file to write" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["scores", "scores.parquet"])
@pytest.mark.parametrize("command", ["solve", "evaluate", "benchmark"])
def test_what_is_no_file_is_not_written(command, name, data, tmp_path, capsys):
    """A pipe, as a device would, has no end; and replaced, it would be lost."""
    os.mkfifo(tmp_path / name)
    words = {"solve": [data / "test.csv"], "evaluate": ["--checkpoint", "sudoku-4x4", "--data", data],
             "benchmark": []}[command]  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        cli.main([command, *map(str, words), "--output", str(tmp_path / name)])
    assert ended.value.code == 2
    assert f"{tmp_path / name} is a pipe; expected a file to write" in capsys.readouterr().err
    assert (tmp_path / name).is_fifo()


def test_help_says_what_a_model_option_means(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    for text in (
        "model: cycles of a segment; each ends with one H-update.",
        '"convolution" (every cell hears its eight',
    ):
        assert text in said
    assert "model: (default" not in said  # an option without a description
