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
    assert (found["machine"]["threads"], found["machine"]["dtype"]) == (1, "float32")  # the recipe's precision
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


_STUB = {  # a checkout's layout and interface, with one weight and its own count of calls
    "models/air/air_1net_Lx_H.py": """
from pathlib import Path
import torch
class AIR(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        assert (config["hidden_size"], config["puzzle_emb_ndim"], config["forward_dtype"]) == (32, 32, "float32")
        self.weight = torch.nn.Parameter(torch.ones(config["vocab_size"], config["vocab_size"]))
        self.puzzle_emb = torch.nn.Module()
        self.puzzle_emb.table = torch.nn.Buffer(torch.zeros(2))
    def forward(self, batch):
        with open(Path(__file__).with_name("calls"), "a") as file:
            file.write("T" if self.training else "E")
        return self.weight[batch["inputs"]]
""",
    "models/losses.py": """
import torch
class ACTLossHead(torch.nn.Module):
    def __init__(self, model, loss_type):
        super().__init__()
        self.model = model
    def initial_carry(self, batch):
        assert set(batch) == {"inputs", "labels", "puzzle_identifiers"}
        return 0
    def forward(self, carry, batch, return_keys):
        logits = self.model(batch)
        return carry + 1, torch.nn.functional.cross_entropy(logits.mT, batch["labels"], reduction="sum"), {}, {}, True
""",
    "models/sparse_embedding.py": """
import torch
class CastedSparseEmbeddingSignSGD_Distributed(torch.optim.SGD):
    def __init__(self, params, world_size, lr, weight_decay):
        super().__init__(params, lr=lr)
""",
}


def test_beside_the_published_code(tmp_path, capsys):
    for name, text in _STUB.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    make_csv(tmp_path / "data", "sudoku-4x4", train=40, test=4)
    words = ["--config", tmp_path / "recipe.yaml", "--seconds", 0.05, "--mixed_precision", "no"]
    words += ["--published", tmp_path]
    recipe = {"train_data": str(tmp_path / "data"), "hidden_size": 32, "num_attention_heads": 1, "compile": "off",
              "num_hidden_layers": 1, "max_segments": 2, "batch_size": 4, "mixed_precision": "bf16"}  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    assert command(*words, "--output", tmp_path / "b.json") == 0
    (found,) = json.loads((tmp_path / "b.json").read_text()).values()
    calls = (tmp_path / "models/air/calls").read_text()
    out = capsys.readouterr().out
    assert "threads, float32: a square product" in out  # the option goes before the recipe
    for part, letter in (("training", "T"), ("evaluation", "E")):
        times = found["beside_published"][part]
        assert times["ms"]["runs"] == times["published_ms"]["runs"] == calls.count(letter) - 1
        ratio = times["published_ms"]["median"] / times["ms"]["median"]
        assert f"{part}: {times['ms']['median']:.1f} ms" in out
        assert f"{ratio:.2f} times as long" in out
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe | {"halting": "halt_only"}))
    assert command(*words) == 2
    assert "halting is 'halt_only'; the published code has 'q_learning' built in" in capsys.readouterr().err


def test_a_checkpoint_measured(make_model, tmp_path, capsys):
    make_model(puzzle="sudoku-4x4").save_pretrained(tmp_path)
    options = ("--seconds", 0.01, "--threads", 1, "--mixed_precision", "bf16", "--compile", "off")
    assert command("--model", tmp_path, *options) == 0
    out = capsys.readouterr().out
    assert "not compiled; memory at most" in out
    assert f"{tmp_path}: sudoku-4x4, width 32" in out
    assert "CPU, 1 threads, bfloat16: a square product" in out


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
        (
            ["--sizes", "paper-sudoku", "--published", "nowhere"],
            "nowhere is no checkout of the published code",
        ),
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
