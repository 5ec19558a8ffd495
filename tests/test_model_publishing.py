"""Checkpoints on the Hub, with the real client against the server of support/: train, push, load, solve, and faults."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from support.hub_processes import client_pool, contents, run
from support.hub_server import Fault
from support.training import TINY_RUN, WITHOUT_AIR_HF, make_csv

from air_hf.hub.model_card import find_variant, write_model_card
from air_hf.puzzles import get_puzzle
from air_hf.tokenization import build_tokenizer
from air_hf.variants import VARIANTS, variant_config

pytest_plugins = ["support.hub_fixtures"]
TINY = [*TINY_RUN, "--max_segments", "2", "--log_every", "2"]
# In a process that has never heard of this package: the three lines of the card, a pinned revision, and the pipeline.
USE = (
    WITHOUT_AIR_HF
    + """
import json
import torch
from transformers import AutoModel, AutoTokenizer, pipeline
repository, revision, boards = sys.argv[1], sys.argv[2], json.load(open(sys.argv[3]))
model = AutoModel.from_pretrained(repository, revision=revision, trust_remote_code=True).eval()
tokenizer = AutoTokenizer.from_pretrained(repository, trust_remote_code=False)
ids = tokenizer(boards, return_tensors="pt").input_ids
answers = [answer for part in ids.split(100) for answer in model.solve(part).sequences]
direct = [tokenizer.decode(answer).replace(tokenizer.pad_token, "?") for answer in answers]
solver = pipeline("puzzle-solving", model=repository, trust_remote_code=True)
answers = solver(boards, batch_size=100)
assert [answer["solution"] for answer in answers] == direct
print(json.dumps(answers))
"""
)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_csv(tmp_path_factory.mktemp("data"), train=1000, test=40)


def train(hub, home, data, output, variant, *words) -> subprocess.CompletedProcess:
    return run(
        hub, home, sys.executable, "-m", "accelerate.commands.launch", "examples/train.py", *TINY,
        "--train_data", data, "--output_dir", output, "--variant", variant, *words,
    )  # fmt: skip


def test_trained_pushed_loaded_and_solving(hub, data, tmp_path):
    """Two variants; one is pushed while it trains and while the Hub fails, which training does not mind."""
    home = tmp_path / "home"
    hub.inject(Fault("status", "commit", status=401))  # the first push, in the background, is lost
    words = ["--max_steps", 6, "--eval_every", 2, "--push_to_hub", "puzzles/first", "--push_every", 1]
    done = train(hub, home, data, tmp_path / "first", "Lx_H", *words)
    reports = done.stdout + done.stderr
    assert "not published, training goes on: puzzles/first: the push failed" in reports
    assert "published as puzzles/first, commit" in reports
    train(
        hub,
        home,
        data,
        tmp_path / "second",
        "L2x_H2x-prepend-keep",
        "--max_steps",
        2,
        "--push_to_hub",
        "puzzles/second",
    )

    for name in ("first", "second"):
        files, checkpoint = hub.files("model", f"puzzles/{name}"), tmp_path / name / "checkpoint"
        local = {path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*") if path.is_file()}
        assert set(files) - {".gitattributes"} == {path for path in local if not path.startswith("training_state")}
        assert {"modeling_air.py", "configuration_air.py", "pipeline_air.py", "README.md", "model.safetensors"} <= set(
            files
        )
        assert files["model.safetensors"] == (checkpoint / "model.safetensors").read_bytes()
        card = files["README.md"].decode()
        assert f'AutoModel.from_pretrained("puzzles/{name}")' in card
        assert str(tmp_path) not in card + files["training.json"].decode()
        metadata = yaml.safe_load(card.split("---")[1])
        scores = json.loads(files["evaluation.json"])
        assert metadata["library_name"] == "transformers"
        assert metadata["model-index"][0]["results"][0]["metrics"][0]["value"] == scores["exact_accuracy"]
        assert f"| exact accuracy | {scores['exact_accuracy']:.1%} |" in card

    boards = [line.split(",")[1] for line in (data / "train.csv").read_text().splitlines()[1:]]
    assert len(boards) == 1000
    (tmp_path / "boards.json").write_text(json.dumps(boards))
    for name in ("first", "second"):
        revision = hub.head("model", f"puzzles/{name}")
        done = run(hub, tmp_path / "other", sys.executable, "-I", "-c", USE, f"puzzles/{name}", revision,
                   tmp_path / "boards.json")  # fmt: skip
        answers = json.loads(done.stdout)
        assert len(answers) == 1000
        assert all(set(answer) == {"solution", "valid", "confidence", "segments"} for answer in answers)
        assert all(len(answer["solution"]) == 16 and 0 <= answer["confidence"] <= 1 for answer in answers)
    assert not hub.unknown_requests


@pytest.fixture
def checkpoint(make_model, tmp_path) -> Path:
    folder = tmp_path / "checkpoint"
    make_model().save_pretrained(folder)
    build_tokenizer(get_puzzle("sudoku-4x4")).save_pretrained(folder)
    (folder / "training_state").mkdir()
    (folder / "training_state" / "state.json").write_text("{}")
    return folder


def test_publish_command(hub, checkpoint, tmp_path):
    before = contents(checkpoint)
    publish = [sys.executable, "-m", "air_hf.cli", "publish", checkpoint, "puzzles/mine"]
    done = run(hub, tmp_path / "home", *publish)
    assert 'AutoModel.from_pretrained("puzzles/mine")' in done.stdout
    assert contents(checkpoint) == before
    files = hub.files("model", "puzzles/mine")
    assert "training_state/state.json" not in files
    assert "How these weights were trained is not recorded here" in files["README.md"].decode()
    assert "Not measured." in files["README.md"].decode()
    private = run(hub, tmp_path / "home", sys.executable, "-c",
                  "from huggingface_hub import HfApi; print(HfApi().model_info('puzzles/mine').private)")  # fmt: skip
    assert private.stdout.strip() == "True"
    for words, message in (
        (["nowhere", "puzzles/mine"], "nowhere holds no checkpoint: config.json is missing"),
        ([checkpoint, "not a name"], "'not a name' is no name of a repository"),
        ([checkpoint, "bob/mine"], "bob/mine: the push failed"),
    ):
        done = run(hub, tmp_path / "home", *publish[:4], *words, check=False)
        assert done.returncode == 2
        assert message in done.stderr


def publish(folder: Path, repository: str) -> str:
    """The commit, or what went wrong, without waiting between tries."""
    from air_hf import hub, publishing

    hub._WAITS = (0.01, 0.01)
    try:
        return publishing.publish_checkpoint(folder, repository)
    except hub.PublishError as error:
        return f"PublishError: {error}"


FAULTS = [
    *(Fault("status", status=status) for status in (400, 401, 403, 404, 409, 429, 500, 503)),
    Fault("status", status=503, retry_after=1),
    Fault("slow", seconds=0.1),
    *(Fault(kind) for kind in ("reset", "reset_after", "reset_mid_body", "truncate")),
]


@pytest.mark.slow
def test_every_fault_at_every_request_of_a_push(hub, checkpoint, tmp_path):
    """Over an older state: afterwards the repository is at the old commit or at the whole new one."""
    with client_pool(hub, tmp_path / "home") as pool:
        weights = checkpoint / "model.safetensors"
        first = len(hub.requests)
        assert not pool.submit(publish, checkpoint, "puzzles/probe").result().startswith("PublishError")
        requests = [request.kind for request in hub.requests[first:] if request.kind != "telemetry"]
        assert {"create", "preupload", "lfs_batch", "lfs_put", "commit"} <= set(requests)
        places = sorted({(kind, requests[:i].count(kind)) for i, kind in enumerate(requests)})
        for number, (place, template) in enumerate((place, fault) for place in places for fault in FAULTS):
            kind, index = place
            repository = f"puzzles/model-{number}"
            if kind != "create":
                pool.submit(publish, checkpoint, repository).result()
            old = hub.files("model", repository) if hub.exists("model", repository) else {}
            data = bytearray(weights.read_bytes())
            data[-8:] = number.to_bytes(8, "little")  # other weights, so that there is something to upload
            weights.write_bytes(bytes(data))
            fault = replace(template, match=kind, index=index if kind == "create" else 0)
            hub.inject(fault)
            first_try = pool.submit(publish, checkpoint, repository).result()
            fault.times = 0
            now = hub.files("model", repository) if hub.exists("model", repository) else {}
            if first_try.startswith("PublishError"):
                assert "the same command again completes it" in first_try
                whole = now.get("model.safetensors") == bytes(data)
                assert whole or {k: v for k, v in now.items() if k != ".gitattributes"} == {
                    k: v for k, v in old.items() if k != ".gitattributes"
                }, (kind, template)
            assert not pool.submit(publish, checkpoint, repository).result().startswith("PublishError"), (
                kind,
                template,
            )
            assert hub.files("model", repository)["model.safetensors"] == bytes(data)
            assert weights.read_bytes() == bytes(data)
    assert not hub.unknown_requests


def test_names_of_variants_are_found():
    for name in VARIANTS:
        assert find_variant(variant_config(name, hidden_size=64, num_attention_heads=4)) == name
    assert find_variant(variant_config("L_Hx", l_injections=1, h_injections=2, shared_network=False)) == "a mixture"


def test_card_of_a_data_set_on_the_hub(checkpoint):
    """With a published test set, results also in `.eval_results/`, in the Hub's format."""
    facts = {
        "step": 10, "ema": 0.99, "minutes": 1.5, "hardware": "CPU", "processes": 2, "versions": {"torch": "2"},
        "arguments": {"variant": "Lx_H", "dataset": "org/sudoku", "dataset_config": "1k", "max_steps": 10, "seed": 3,
                      "batch_size": 8, "learning_rate": 0.1, "warmup_steps": 1, "min_lr_ratio": 1, "weight_decay": 1},
        "data": {split: {"puzzle": "sudoku-4x4", "puzzles": 7, "sha256": "abc", "example": "1" + "." * 15}
                 for split in ("train", "test")},
        "curves": {"loss": [[1, 2.0], [2, 1.0]], "evaluations": [[2, 0.5, 0.75]]},
    }  # fmt: skip
    scores = {"exact_accuracy": 0.5, "cell_accuracy": 0.75, "copy_accuracy": 0.25, "valid_rate": 0.5, "ema": 0.99,
              "halting_accuracy": 1.0, "halting_exact_accuracy": 0.5, "mean_segments": 2.0, "num_puzzles": 7,
              "num_segments": 4, "precision": "float32"}  # fmt: skip
    (checkpoint / "training.json").write_text(json.dumps(facts))
    (checkpoint / "evaluation.json").write_text(json.dumps(scores))
    write_model_card(checkpoint, "org/model")
    card = (checkpoint / "README.md").read_text()
    metadata = yaml.safe_load(card.split("---")[1])
    assert metadata["datasets"] == ["org/sudoku"]
    for text in ("10 steps", "2 processes, seed 3", "`abc`", "**50.0%** of 7 test puzzles", '"1..............."',
                 "| learning_rate | 0.1 |", "![Loss and accuracy"):  # fmt: skip
        assert text in card
    assert (checkpoint / "images" / "training.png").read_bytes().startswith(b"\x89PNG")
    (result,) = yaml.safe_load((checkpoint / ".eval_results" / "exact_accuracy.yaml").read_text())
    assert (result["dataset"], result["value"]) == ({"id": "org/sudoku", "task_id": "1k"}, 50.0)
    assert load_file(checkpoint / "model.safetensors")["lm_head.weight"].dtype == torch.float32
