"""Checkpoints on the Hub, with the real client against the server of support/: train, push, load, solve, and faults."""

import argparse
import ast
import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import yaml
from huggingface_hub import ModelCard
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support.hub_processes import FAULTS, client_pool, command, contents, run, time_limit
from support.hub_server import Fault, Repo
from support.training import TINY_RUN, WITHOUT_AIR_HF, make_csv

from air_hf import cli
from air_hf.card_options import CardOptions
from air_hf.commands import publish
from air_hf.hub import CheckpointError, PublishError
from air_hf.hub.model_card import find_variant, write_model_card
from air_hf.hub.publishing import BackgroundPublisher, publish_checkpoint, stage_checkpoint
from air_hf.hub.records import published_record
from air_hf.hub.sweep import publish_sweep
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
tokenizer = AutoTokenizer.from_pretrained(repository, revision=revision, trust_remote_code=False)
ids = tokenizer(boards, return_tensors="pt").input_ids
answers = [answer for part in ids.split(100) for answer in model.solve(part).sequences]
direct = [tokenizer.decode(answer).replace(tokenizer.pad_token, "?") for answer in answers]
solver = pipeline("puzzle-solving", model=repository, revision=revision, trust_remote_code=True)
answers = solver(boards, batch_size=100)
assert [answer["solution"] for answer in answers] == direct
print(json.dumps(answers))
"""
)


SAVED_AND_PUSHED = """
import sys
from air_hf import AIRForPuzzleSolving, variant_config
from air_hf.solving import SolveConfig
model = AIRForPuzzleSolving(variant_config("Lx_H", hidden_size=16, num_attention_heads=2, seq_len=16, vocab_size=6))
model.solve_config = SolveConfig(max_segments=3)
model.add_model_tags("sudoku")
model.save_pretrained(sys.argv[1], push_to_hub=True, repo_id="alice/model", private=True)
assert AIRForPuzzleSolving.from_pretrained("alice/model").solve_config.max_segments == 3
# What is pushed is what is saved, from the main process.
weights = {name: tensor * 0 for name, tensor in model.state_dict().items()}
options = {"push_to_hub": True, "repo_id": "alice/zeros", "revision": "v1"}
model.save_pretrained(sys.argv[1] + "-2", is_main_process=False, state_dict=dict(weights), **options)
model.save_pretrained(sys.argv[1] + "-3", state_dict=weights, **options)
for place in (sys.argv[1] + "-3", "alice/zeros"):
    loaded = AIRForPuzzleSolving.from_pretrained(place, **({"revision": "v1"} if place == "alice/zeros" else {}))
    assert not any(tensor.any() for tensor in loaded.state_dict().values())
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_csv(tmp_path_factory.mktemp("data"), train=1000, test=40)


def train(hub, home, data, output, variant, *words) -> subprocess.CompletedProcess:
    return run(
        hub, home, sys.executable, "-m", "accelerate.commands.launch", "examples/train.py", *TINY,
        "--train_data", data, "--output_dir", output, "--variant", variant, *words,
    )  # fmt: skip


def test_a_model_that_is_pushed_as_it_is_saved_takes_along_how_it_solves(hub, tmp_path):
    run(hub, tmp_path / "home", sys.executable, "-c", SAVED_AND_PUSHED, tmp_path / "model")
    assert json.loads(hub.files("model", "alice/model")["solve_config.json"]) == {"max_segments": 3}
    assert ModelCard(hub.files("model", "alice/model")["README.md"].decode()).data.tags == ["sudoku"]
    assert not (tmp_path / "model-2").exists() or not list((tmp_path / "model-2").iterdir())


def test_trained_pushed_loaded_and_solving(hub, data, tmp_path):
    """Two variants; one is pushed while it trains and while the Hub fails, which training does not mind."""
    home = tmp_path / "home"
    hub.inject(Fault("status", "commit", status=401))  # the first push, in the background, is lost
    words = ["--max_steps", 6, "--eval_every", 2, "--push_to_hub", "puzzles/first", "--push_every", 1]
    done = train(hub, home, data, tmp_path / "first", "Lx_H", *words)
    reports = done.stdout + done.stderr
    place = tmp_path / "first" / "checkpoint"
    assert f"step 2 is not published, training goes on: {place}: puzzles/first: the push failed (" in reports
    assert "401 Unauthorized" in reports
    assert "the Hub does not know the token: see `hf auth login`" in reports
    assert "published as puzzles/first, commit" in reports
    words = ["--max_steps", 2, "--push_to_hub", "puzzles/second", "--hub_license", "mit", "--hub_tags", "mine, too",
             "--hub_project_url", "https://example.org/air", "--hub_revision", "v2"]  # fmt: skip
    train(hub, home, data, tmp_path / "second", "L2x_H2x-prepend-keep", *words)
    branches = {"first": "main", "second": "v2"}
    assert set(hub.files("model", "puzzles/second")) == {".gitattributes"}  # main is as it was made
    options = {"first": ("apache-2.0", set(), False), "second": ("mit", {"mine", "too"}, True)}

    for name in ("first", "second"):
        files = hub.files("model", f"puzzles/{name}", branches[name])
        checkpoint = tmp_path / name / "checkpoint"
        local = {path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*") if path.is_file()}
        assert set(files) - {".gitattributes"} == {path for path in local if not path.startswith("training_state")}
        assert {"modeling_air.py", "configuration_air.py", "pipeline_air.py", "README.md", "model.safetensors"} <= set(
            files
        )
        assert files["model.safetensors"] == (checkpoint / "model.safetensors").read_bytes()
        card = files["README.md"].decode()
        assert f'AutoModel.from_pretrained("puzzles/{name}", trust_remote_code=True)' in card
        published = b"".join(files[path] for path in ("README.md", "training.json", "evaluation.json"))
        assert str(tmp_path).encode() not in published
        metadata = yaml.safe_load(card.split("---")[1])
        scores = json.loads(files["evaluation.json"])
        assert metadata["library_name"] == "transformers"
        license, tags, has_url = options[name]
        assert (metadata["license"], "Project: <https://example.org/air>" in card) == (license, has_url)
        assert tags == {"mine", "too"} & set(metadata["tags"])
        assert metadata["model-index"][0]["results"][0]["metrics"][0]["value"] == scores["exact_accuracy"]
        assert f"| exact accuracy | {scores['exact_accuracy']:.1%} |" in card

    boards = [line.split(",")[1] for line in (data / "train.csv").read_text().splitlines()[1:]]
    assert len(boards) == 1000
    (tmp_path / "boards.json").write_text(json.dumps(boards))
    for name in ("first", "second"):
        revision = hub.head("model", f"puzzles/{name}", branches[name])
        done = run(hub, tmp_path / "other", sys.executable, "-I", "-c", USE, f"puzzles/{name}", revision,
                   tmp_path / "boards.json")  # fmt: skip
        answers = json.loads(done.stdout)
        assert len(answers) == 1000
        keys = {"solution", "valid", "confidence", "segments", "calls", "verified"}
        assert all(set(answer) == keys for answer in answers)
        assert all(len(answer["solution"]) == 16 and 0 <= answer["confidence"] <= 1 for answer in answers)

    words = ["--checkpoint", "puzzles/first", "--task", "sudoku", "--data", data, "--puzzles", 8]
    run(
        hub, tmp_path / "other", sys.executable, "-m", "air_hf.cli", "reproduce", *words, "--output", tmp_path / "paper"
    )
    report = json.loads((tmp_path / "paper" / "report.json").read_text())
    assert (
        report["facts"]["weights_sha256"]
        == hashlib.sha256(hub.files("model", "puzzles/first")["model.safetensors"]).hexdigest()
    )
    assert not hub.unknown_requests


@pytest.fixture
def checkpoint(make_model, tmp_path) -> Path:
    folder = tmp_path / "checkpoint"
    make_model().save_pretrained(folder)
    build_tokenizer(get_puzzle("sudoku-4x4")).save_pretrained(folder)
    (folder / "training_state").mkdir()
    (folder / "training_state" / "state.json").write_text("{}")
    return folder


@pytest.fixture
def connected(hub, monkeypatch):
    """This process's pushes go to the Hub; each is in a process of its own, which reads its environment."""
    environment = hub.environment(hub.folder.parent / "home")
    for name in ("HF_ENDPOINT", "HF_HOME", "HF_TOKEN", "HF_HUB_DISABLE_XET"):
        monkeypatch.setenv(name, environment[name])
    monkeypatch.setattr("air_hf.hub.transfer._WAITS", (0.01, 0.01))
    return hub


def publish_command(*words) -> int:
    """`air-hf publish`; its exit status."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(["publish", *map(str, words)])
    return stopped.value.code


def test_publish_command(connected, checkpoint, capsys):
    before = contents(checkpoint)
    words = ["--license", "mit", "--project_url", "https://example.org/air", "--tags", "a,b", "--revision", "v2"]
    assert publish_command(checkpoint, "puzzles/mine", *words) == 0
    assert 'AutoModel.from_pretrained("puzzles/mine", trust_remote_code=True)' in capsys.readouterr().out
    assert contents(checkpoint) == before
    files = connected.files("model", "puzzles/mine", "v2")
    assert "training_state/state.json" not in files
    card = files["README.md"].decode()
    metadata = yaml.safe_load(card.split("---")[1])
    assert (metadata["license"], metadata["pipeline_tag"]) == ("mit", "other")
    assert {"a", "b", "sudoku"} <= set(metadata["tags"])
    for text in ("Project: <https://example.org/air>", "Not measured.", "A Sudoku: fill in the blank cells",
                 "How these weights were trained is not recorded here"):  # fmt: skip
        assert text in card
    assert "pip install" not in card
    assert "ORG/" not in card
    assert set(connected.files("model", "puzzles/mine")) == {".gitattributes"}  # main is as it was made
    assert Repo(connected.folder, "models", "puzzles/mine").settings["private"]
    assert publish_command(checkpoint, "puzzles/open", "--public") == 0
    assert not Repo(connected.folder, "models", "puzzles/open").settings["private"]


def test_checkpoints_are_read_through_a_cache(connected, checkpoint, tmp_path):
    """`--cache_dir` of the commands that solve, calibrate and train."""
    publish_checkpoint(checkpoint, "puzzles/mine")
    data, cache = make_csv(tmp_path / "data", train=8, test=4), tmp_path / "cache"
    recipe = ["--train_data", data, "--output_dir", tmp_path / "run", "--max_steps", 1, "--warmup_steps", 0,
              "--compile", "off", "--batch_size", 4]  # fmt: skip
    with client_pool(connected, tmp_path / "other") as pool:
        for words in (
            ["solve", "--model", "puzzles/mine", "." * 16],
            ["calibrate", "--model", "puzzles/mine", "--data", data, "--output", tmp_path / "calibrated"],
            ["train", "--init_from", "puzzles/mine", *recipe],
        ):
            done = pool.submit(command, *words, "--cache_dir", cache).result()
            assert done.returncode in (0, 1), done.stderr
            assert (cache / "models--puzzles--mine" / "snapshots").is_dir()
            assert not list((tmp_path / "other").rglob("*.safetensors"))
            shutil.rmtree(cache)
    facts = json.loads((tmp_path / "run" / "checkpoint" / "training.json").read_text())
    assert facts["init_from"]["repository"] == "puzzles/mine"
    assert str(cache) not in json.dumps(facts)


def test_a_bare_name_is_one_of_the_owners(connected, checkpoint, capsys):
    assert publish_command(checkpoint, "mine") == 0
    commit = connected.head("model", "alice/mine")
    assert f"published {checkpoint} as alice/mine, commit {commit}" in capsys.readouterr().out
    assert 'from_pretrained("alice/mine"' in connected.files("model", "alice/mine")["README.md"].decode()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere", "puzzles/mine"], "checkpoint folder nowhere does not exist"),
        (["CHECKPOINT", "not a name"], "'not a name' is no name of a repository; expected ORG/NAME"),
        (["CHECKPOINT", "bob/mine"], "bob/mine: the push failed (403"),
        (["CHECKPOINT", "puzzles/mine", "--license", "My own!"], "license is 'My own!'; expected an identifier"),
        (["CHECKPOINT", "puzzles/mine", "--project_url", "x"], "project_url is 'x'; expected an address"),
        (["CHECKPOINT", "puzzles/mine", "--timeout", "0"], "timeout is 0.0; it must be a positive number of seconds"),
    ],
)
def test_publish_refuses(connected, checkpoint, words, message, capsys):
    assert publish_command(*(checkpoint if word == "CHECKPOINT" else word for word in words)) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in last
    assert "\n" not in last
    assert ("the token may not write there" in last) == ("403" in message)
    assert not connected.exists("model", "puzzles/mine")


def test_a_silent_hub_does_not_keep_a_push(connected, checkpoint):
    """Every request, in turn, is accepted and never answered."""
    for kind in ("create", "preupload", "lfs_batch", "lfs_put", "commit"):
        connected.inject(Fault("stall", match=kind))
        started = time.monotonic()
        with pytest.raises(PublishError, match=r"no end after 2 seconds.*another try sends only what is missing"):
            publish_checkpoint(checkpoint, "puzzles/mine", timeout=2)
        assert time.monotonic() - started < 6
    publish_checkpoint(checkpoint, "puzzles/mine")


def test_a_page_where_json_was_expected(connected, checkpoint):
    connected.inject(Fault("html", match="create", times=3))
    with pytest.raises(PublishError, match="the Hub's answer is no JSON, as if something else answered in its place"):
        publish_checkpoint(checkpoint, "puzzles/mine")
    publish_checkpoint(checkpoint, "puzzles/mine")


@pytest.mark.parametrize("said", ["x", 3, None, "../.."])
def test_an_answer_that_names_no_commit(connected, checkpoint, said):
    """Nothing is told to be published as a commit that is none."""

    def change(reply):
        return replace(reply, body=json.dumps(json.loads(reply.body) | {"commitOid": said}).encode())

    connected.inject(Fault("change", match="commit", change=change))
    _, commit = publish_checkpoint(checkpoint, "puzzles/mine")  # another try finds that all is there
    assert commit == connected.head("model", "puzzles/mine")


def background(reports: list[str], **options) -> BackgroundPublisher:
    return BackgroundPublisher("puzzles/mine", True, reports.append, **options)


def test_abandoned_within_a_second(connected, checkpoint):
    reports: list[str] = []
    publisher = background(reports)
    connected.inject(Fault("stall", match="preupload", times=9))
    publisher.push(checkpoint, 4)
    publisher.push(checkpoint, 5)
    assert reports == ["step 5 is not published: the push of step 4 is still under way"]
    while not connected.count("preupload"):
        time.sleep(0.05)
    started = time.monotonic()
    publisher.abandon()
    publisher.abandon()
    assert time.monotonic() - started < 1
    publisher.finish(checkpoint)  # what a signal's handler abandons, the main thread may be waiting in
    assert time.monotonic() - started < 5
    assert (
        f"step 4 is not published, training goes on: {checkpoint}: puzzles/mine: the push failed (it was given up)"
        in (reports[1])
    )
    assert f"then: air-hf publish {checkpoint} puzzles/mine --license=apache-2.0" in reports[2]


def test_scores_of_other_weights_do_not_stay(connected, checkpoint):
    (checkpoint / "evaluation.json").write_text(json.dumps(evaluation()))
    publish_checkpoint(checkpoint, "puzzles/mine")
    assert "evaluation.json" in connected.files("model", "puzzles/mine")
    (checkpoint / "evaluation.json").unlink()
    publish_checkpoint(checkpoint, "puzzles/mine")
    assert "evaluation.json" not in connected.files("model", "puzzles/mine")
    assert "model.safetensors" in connected.files("model", "puzzles/mine")


def test_a_wrong_token_is_told_at_the_start(connected, monkeypatch):
    """Not by the first push, for which a run may train for hours."""
    reports: list[str] = []
    background(reports).check()
    while not connected.count("whoami"):
        time.sleep(0.05)
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    background(reports).check()
    while not reports:
        time.sleep(0.05)
    assert len(reports) == 1  # none of the right token
    assert "as things are, nothing can be published; training goes on: puzzles/mine: the Hub does not say" in reports[0]
    assert reports[0].endswith("the Hub does not know the token: see `hf auth login`")
    connected.inject(Fault("stall", match="whoami"))
    asked = connected.count("whoami")
    given_up = background(reports)
    given_up.check()
    while connected.count("whoami") == asked:
        time.sleep(0.05)
    given_up.abandon()  # what was given up is no news
    time.sleep(0.3)
    assert len(reports) == 1


def test_the_command_that_repeats_a_lost_push_is_complete(connected, checkpoint, tmp_path, monkeypatch):
    """Read back by the command's own parser it means what the run was told, in whatever folder it is typed."""
    place = tmp_path / "my run's $checkpoint"
    checkpoint.rename(place)
    card = CardOptions("mit", "https://example.org/a?b=1&c='2'", ["one tag", "-x", "$HOME"])
    connected.inject(Fault("status", match="create", status=403, times=9))
    for private, revision, options in ((True, None, CardOptions()), (False, "-a branch;", card)):
        reports: list[str] = []
        publisher = BackgroundPublisher("puzzles/mine", private, reports.append, revision=revision, timeout=123.5,
                                        card=options)  # fmt: skip
        monkeypatch.chdir(tmp_path)
        publisher.finish(place.relative_to(tmp_path))
        monkeypatch.chdir("/")
        words = shlex.split(reports[0].split("then: ")[1])
        parser = argparse.ArgumentParser()
        publish.configure(parser)
        assert words[:2] == ["air-hf", "publish"]
        args = parser.parse_args(words[2:])
        assert (args.checkpoint, args.repository) == (place, "puzzles/mine")
        expected = {"private": private, "revision": revision, "timeout": 123.5, "card": options}
        assert publish.publishing_options(args) == expected


def test_a_finished_run_is_not_kept_alive(connected, checkpoint):
    reports: list[str] = []
    connected.inject(Fault("stall", match="create", times=9))
    started = time.monotonic()
    background(reports, timeout=1).finish(checkpoint)
    assert time.monotonic() - started < 5
    assert "no end after 1 seconds" in reports[0]


def test_pushes_in_training_say_so(connected, checkpoint):
    facts = training_facts(finished=False) | {"step": 4}
    (checkpoint / "training.json").write_text(json.dumps(facts))
    reports: list[str] = []
    publisher = background(reports)
    publisher.push(checkpoint, 4)
    publisher.finish(checkpoint)
    assert reports[0].startswith("step 4 is published as puzzles/mine, commit ")
    repository = Repo(connected.folder, "models", "puzzles/mine")
    titles = [commit.title for commit in repository.history(repository.resolve("main"))]
    assert "air-hf: in training, step 4" in titles
    card = connected.files("model", "puzzles/mine")["README.md"].decode()
    assert "**Unfinished:** these are the weights after step 4 of 10; the run goes on" in card


def test_nothing_that_goes_wrong_ends_training(checkpoint, monkeypatch, tmp_path):
    reports: list[str] = []

    def full(*args, **options):
        raise OSError(28, "No space left on device", "/tmp/x")

    with monkeypatch.context() as patched:
        patched.setattr("tempfile.mkdtemp", full)
        background(reports).push(checkpoint, 3)
    with monkeypatch.context() as patched:
        patched.setattr("shutil.copytree", full)
        patched.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
        (tmp_path / "temporary").mkdir()
        background(reports).push(checkpoint, 4)
        assert not list((tmp_path / "temporary").iterdir())
    for error in (RuntimeError("boom"), KeyError("sha"), MemoryError("much")):
        monkeypatch.setattr("air_hf.hub.publishing.push_folder", mock.Mock(side_effect=error))
        publisher = background(reports)
        publisher.push(checkpoint, 5)
        publisher.finish(checkpoint)
    assert [report.split(":")[0] for report in reports[:3]] == [
        "step 3 is not published, training goes on", "step 4 is not published, training goes on",
        "step 5 is not published, training goes on",
    ]  # fmt: skip
    assert len(reports) == 2 + 2 * 3
    assert "boom" in reports[2]
    assert "boom" in reports[3]
    assert "No space left on device" in reports[0]


def attempt(checkpoint: Path, repository: str, timeout: float) -> str:
    """What is said if the push fails."""
    try:
        publish_checkpoint(checkpoint, repository, timeout=timeout)
    except PublishError as error:
        return str(error)
    return ""


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_fault_at_every_request_of_a_push(connected, make_model, checkpoint):
    """Over an older state, with several large files; each fault strikes the first, or the last, request of its kind.

    Afterwards the repository is at the old commit or at the whole new one, and another push completes it.
    """
    hub = connected
    make_model().save_pretrained(checkpoint, max_shard_size="20KB")
    (checkpoint / "model.safetensors").unlink()
    shards = sorted(checkpoint.glob("*.safetensors"))
    assert len(shards) > 2
    first = len(hub.requests)
    publish_checkpoint(checkpoint, "puzzles/probe")
    requests = [request.kind for request in hub.requests[first:] if request.kind != "telemetry"]
    assert {"create", "preupload", "lfs_batch", "lfs_put", "commit"} <= set(requests)
    assert requests.count("lfs_put") >= len(shards)
    places = sorted({(kind, index) for kind in set(requests) for index in (0, requests.count(kind) - 1)})
    walk = [(place, template) for place in places for template in FAULTS]
    for number, ((kind, index), template) in enumerate(walk):
        repository = f"puzzles/model-{number}"
        if kind != "create":
            publish_checkpoint(checkpoint, repository)
        old = hub.files("model", repository) if hub.exists("model", repository) else {}
        for shard in shards:  # other weights, so that there is something to upload
            data = bytearray(shard.read_bytes())
            data[-4:] = number.to_bytes(4, "little")
            shard.write_bytes(bytes(data))
        new = {shard.name: shard.read_bytes() for shard in shards}
        fault = replace(template, match=kind, index=index)
        hub.inject(fault)
        said = attempt(checkpoint, repository, time_limit(template))
        assert not said or "the repository holds what it held before, or all of the push" in said
        assert not said or ("hf auth login" in said) == (template.kind == "status" and template.status == 401)
        fault.times = 0
        now = hub.files("model", repository) if hub.exists("model", repository) else {}
        held = [{name: data for name, data in files.items() if name in new} for files in (old, new, now)]
        assert held[2] in held[:2], (kind, index, template)
        publish_checkpoint(checkpoint, repository)
        files = hub.files("model", repository)
        assert {name: files[name] for name in new} == new, (kind, index, template)
        assert {shard.name: shard.read_bytes() for shard in shards} == new
    assert not hub.unknown_requests


def test_names_of_variants_are_found():
    for name in VARIANTS:
        assert find_variant(variant_config(name, hidden_size=64, num_attention_heads=4)) == name
    assert find_variant(variant_config("L_Hx", l_injections=1, h_injections=2, shared_network=False)) == "a mixture"
    convolution = {"mixer": "convolution", "position_embedding": "none", "puzzle": "maze-9x9", "halting": "halt_only"}
    assert find_variant(variant_config("Lx_Hx", **convolution)) == "Lx_Hx"


def training_facts(**changes) -> dict:
    """What a run of 10 steps leaves in `training.json`."""
    split = {"puzzle": "sudoku-4x4", "puzzles": 7, "sha256": "ab" * 32, "example": "1" + "." * 15}
    return {
        "step": 10, "ema": 0.99, "minutes": 1.5, "hardware": "CPU", "processes": 2, "versions": {"torch": "2"},
        "arguments": {"variant": "Lx_H", "dataset": "org/sudoku", "dataset_config": "1k", "dataset_revision": "f" * 40,
                      "max_steps": 10, "seed": 3, "batch_size": 8, "learning_rate": 0.1, "warmup_steps": 1,
                      "min_lr_ratio": 1, "weight_decay": 1},
        "data": {"train": split, "test": split},
        "curves": {"loss": [[1, 2.0], [2, 1.0]], "evaluations": [[2, 0.5, 0.75]]},
        "finished": True,
    } | changes  # fmt: skip


def evaluation(**changes) -> dict:
    return {
        "exact_accuracy": 0.5, "cell_accuracy": 0.75, "copy_accuracy": 0.25, "valid_rate": 0.5, "ema": 0.99,
        "halting_accuracy": 1.0, "halting_exact_accuracy": 0.5, "mean_segments": 2.0, "num_puzzles": 7,
        "num_segments": 4, "precision": "float32", "puzzle": "sudoku-4x4", "data": "/home/me/secret/test.csv",
        "data_sha256": "ef" * 32,
    } | changes  # fmt: skip


def write_card(checkpoint: Path, training: dict, scores: dict) -> tuple[str, dict]:
    """The card's text and its metadata."""
    (checkpoint / "training.json").write_text(json.dumps(training))
    (checkpoint / "evaluation.json").write_text(json.dumps(scores))
    write_model_card(checkpoint, "org/model")
    card = (checkpoint / "README.md").read_text()
    return card, yaml.safe_load(card.split("---")[1])


BENCHMARK = {"dataset": "org/sudoku", "dataset_config": "1k", "dataset_revision": "f" * 40, "split": "test",
             "data": "org/sudoku, 1k, test"}  # fmt: skip


def test_card_of_a_whole_benchmark(checkpoint):
    """Its name, with results also in `.eval_results/`, in the Hub's format."""
    card, metadata = write_card(checkpoint, training_facts(), evaluation(**BENCHMARK, whole_split=True))
    assert metadata["datasets"] == ["org/sudoku"]
    for text in ("10 steps", "2 processes, seed 3", f"`{'ab' * 32}`",
                 "**50.0%** of the test split of org/sudoku, 7 puzzles", "'1...............'",
                 "| learning_rate | 0.1 |", "![Loss and accuracy"):  # fmt: skip
        assert text in card
    assert (checkpoint / "images" / "training.png").read_bytes().startswith(b"\x89PNG")
    (result,) = yaml.safe_load((checkpoint / ".eval_results" / "exact_accuracy.yaml").read_text())
    expected = {"id": "org/sudoku", "task_id": "1k", "revision": "f" * 40}
    assert (result["dataset"], result["value"]) == (expected, 50.0)
    indexed = metadata["model-index"][0]["results"][0]
    assert indexed["dataset"] == {"name": "org/sudoku", "type": "org/sudoku", "config": "1k", "split": "test",
                                  "revision": "f" * 40}  # fmt: skip
    assert indexed["metrics"][0]["name"] == "Exact accuracy (4 segments)"


@pytest.mark.parametrize(
    "changes",
    [
        {},  # trained on a benchmark, scored on a file
        BENCHMARK,  # recorded before it was known whether all was scored
        BENCHMARK | {"whole_split": False},
        BENCHMARK | {"whole_split": True, "split": "train"},
        BENCHMARK | {"whole_split": True, "dataset_revision": None},  # a folder called like a repository has no commit
        BENCHMARK | {"whole_split": True, "dataset_revision": "main"},
        BENCHMARK | {"whole_split": True, "dataset": "a/folder/set"},
    ],
)
def test_no_other_score_is_called_a_benchmarks(checkpoint, changes):
    _, metadata = write_card(checkpoint, training_facts(), evaluation(**changes))
    assert not (checkpoint / ".eval_results" / "exact_accuracy.yaml").exists()
    (results,) = metadata["model-index"]
    for indexed in results["results"]:
        assert indexed["dataset"]["type"] == "sudoku-4x4"
        assert "split" not in indexed["dataset"]
        assert "(7 puzzles of " in indexed["metrics"][0]["name"]
    assert "/" not in metadata["model-index"][0]["results"][0]["dataset"]["name"].replace("org/sudoku", "")


PLACES = [
    "made/here/set", "/home/me/set", "~/secret/set", "~me/secret/set", "../secret/set", "./secret/set",
    "C:\\Users\\me\\set", "C:/Users/me/set", "\\\\server\\share\\set", "secret\\set", "/home/me/set (4 of 9, seed 0)",
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_no_path_is_published(checkpoint, tmp_path, place, monkeypatch):
    """Wherever in the records it stands, and whatever folder the command is run in."""
    split = training_facts()["data"]["test"] | {"name": place, "dataset": place, "file": place}
    arguments = training_facts()["arguments"] | {"dataset": place, "train_data": place, "output_dir": place}
    training = training_facts(arguments=arguments, hardware=place, data={"train": split, "test": split})
    training |= {"init_from": {"name": place, "repository": place}, "notes": [{"seen": [place]}], "source_file": place}
    (checkpoint / "training.json").write_text(json.dumps(training))
    scores = evaluation(data=place, dataset=place, data_sha256="ef" * 32, notes={"at": place})
    (checkpoint / "evaluation.json").write_text(json.dumps(scores))
    solving = {"max_segments": 4, "folder": place, "calibration": {"data": place, "exact": 0.5, "folder": place}}
    (checkpoint / "solve_config.json").write_text(json.dumps(solving))
    config = (checkpoint / "config.json").read_text()
    (checkpoint / "config.json").write_text(json.dumps(json.loads(config) | {"note": place, "_name_or_path": place}))
    weights = load_file(checkpoint / "model.safetensors")
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt", "note": place})
    staged = stage_checkpoint(checkpoint, tmp_path / "staged", "org/model")
    with safe_open(staged / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert json.loads((staged / "config.json").read_text()) == json.loads(config)
    records = {path.name: json.loads(path.read_text()) for path in staged.glob("*.json")}
    text = "".join(path.read_text() for path in staged.iterdir() if path.suffix in (".md", ".json"))
    for folder in ("made", "home", "secret", "server", "Users"):
        assert not re.search(rf"(^|\W){folder}[/\\]", text)
    name = re.split(r"[/\\]", place)[-1]
    assert (records["evaluation.json"]["data"], records["evaluation.json"]["data_sha256"]) == (name, "ef" * 32)
    assert records["training.json"]["data"]["train"]["name"] == name
    assert records["solve_config.json"] == {"max_segments": 4, "calibration": {"data": name, "exact": 0.5}}
    assert f"7 puzzles of {name}" in text
    unknown = {"notes", "tracker_run", "train_data", "output_dir", "file", "folder"}
    assert not unknown & {key for record in records.values() for key in record}
    (tmp_path / "elsewhere" / "made" / "here" / "set").mkdir(parents=True)  # the first place is one there
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = stage_checkpoint(checkpoint, tmp_path / "again", "org/model")
    assert contents(again) == contents(staged)


def test_what_else_lies_beside_a_checkpoint_stays_here(checkpoint, tmp_path):
    expected = contents(stage_checkpoint(checkpoint, tmp_path / "plain", "org/model"))
    for name in ("optimizer.pt", "env.txt", "private/notes.txt", "images/screen.bin", ".env"):
        (checkpoint / name).parent.mkdir(exist_ok=True)
        (checkpoint / name).write_text("secret")
    assert contents(stage_checkpoint(checkpoint, tmp_path / "staged", "org/model")) == expected


def test_symbols_of_boards_are_published_as_they_are():
    """Also those that separate folders elsewhere."""
    split = training_facts()["data"]["test"] | {"example": "/~\\" + "." * 13}
    arguments = training_facts()["arguments"] | {"symbols": "/~\\.", "givens": "/"}
    training = training_facts(arguments=arguments, data={"train": split, "test": split})
    published = published_record("training.json", training)
    assert (published["arguments"], published["data"]) == (arguments, {"train": split, "test": split})


def test_a_data_set_is_named_with_its_commit():
    """As the Hub calls it, and the part of it that was scored."""
    known = BENCHMARK | {"data": "org/sudoku, 1k, test (4 of 9, seed 0)"}
    assert published_record("evaluation.json", known) == known
    for revision in (None, "main", "f" * 39):
        unknown = published_record("evaluation.json", known | {"dataset_revision": revision})
        assert unknown == {"split": "test", "data": "sudoku, 1k, test (4 of 9, seed 0)"}


@pytest.mark.parametrize(
    ("training", "scores", "message"),
    [
        ({"curves": {"loss": [[1]]}}, {}, "training.json, curves: loss is [[1]]; expected lists of 2 numbers"),
        ({"curves": 3}, {}, "training.json, curves: loss is None; expected lists of 2 numbers"),
        ({"data": {"train": {}}}, {}, "training.json, data, train: puzzle is missing"),
        ({}, {"ema": []}, "evaluation.json: ema is []; expected a finite number"),
        ({}, {"valid_rate": ...}, "evaluation.json: valid_rate is missing"),
    ],
)
def test_damaged_records_make_no_card(checkpoint, training, scores, message):
    scores = {name: value for name, value in evaluation(**scores).items() if value is not ...}
    with pytest.raises(CheckpointError) as error:
        write_card(checkpoint, training_facts(**training), scores)
    assert message in str(error.value)


def test_card_of_a_maze_shows_one(make_model, tmp_path):
    make_model(vocab_size=6, seq_len=120, puzzle="maze-10x12").save_pretrained(tmp_path / "maze")
    write_model_card(tmp_path / "maze", "org/maze")
    card = (tmp_path / "maze" / "README.md").read_text()
    drawing = card.split("```text\n")[1].split("```")[0]
    assert drawing.count("S") == drawing.count("G") == 1
    assert "A maze: mark a shortest path" in card
    board = re.search(r"board = (\(.*?\n\))", card, re.DOTALL)[1]
    get_puzzle("maze-10x12").check_question(get_puzzle("maze-10x12").parse(ast.literal_eval(board)))


@pytest.mark.parametrize(
    "puzzle", ["sudoku-4x4", *(pytest.param(name, marks=pytest.mark.slow) for name in ("maze-10x12", None))]
)
def test_every_snippet_of_a_published_card_runs(connected, make_model, tmp_path, puzzle):
    """As pasted, where this package is installed and where it is not; commands where it is."""
    folder, family = tmp_path / "made", get_puzzle(puzzle) if puzzle else None
    sizes = {"vocab_size": family.vocab_size, "seq_len": family.num_cells} if family else {}
    make_model(puzzle=puzzle, **sizes).save_pretrained(folder)
    if family:
        build_tokenizer(family).save_pretrained(folder)
    publish_checkpoint(folder, "puzzles/card")
    card = connected.files("model", "puzzles/card")["README.md"].decode()
    snippets = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(snippets) == (2 if family else 1)
    script = WITHOUT_AIR_HF + "\n".join(snippets) + "\nassert 'air_hf' not in sys.modules"
    for home, code in (("with", "import air_hf\n" + "\n".join(snippets)), ("without", script)):
        done = run(connected, tmp_path / home, sys.executable, "-c", code)
        assert len(done.stdout.strip()) >= 16
    with client_pool(connected, tmp_path / "with") as pool:
        for line in re.findall(r"```console\n\$ air-hf (.*?)\n```", card):
            done = pool.submit(command, *shlex.split(line)).result()
            assert done.returncode in (0, 1), done.stderr
    assert not connected.unknown_requests


def test_publish_sweep(connected, checkpoint, tmp_path, capsys):
    """Three settings, two seeds, runs unfinished: repositories, one table on all of their cards, and a collection."""
    for variant, seed, exact in (("Lx_H", 0, 0.5), ("Lx_H", 1, 0.7), ("L_Hx", 0, 0.4), ("L_Hx", 1, None),
                                 ("Lx_H,ema_decay=0.99", 0, 0.6)):  # fmt: skip
        place = tmp_path / "sweep" / variant / f"seed-{seed}" / "checkpoint"
        shutil.copytree(checkpoint, place)
        (place / "training.json").write_text(json.dumps(training_facts()))
        if exact is not None:
            (place / "evaluation.json").write_text(json.dumps(evaluation(exact_accuracy=exact)))
    with pytest.raises(SystemExit) as stopped:
        cli.main(["publish-sweep", str(tmp_path / "sweep"), "puzzles", "--name", "mine"])
    assert stopped.value.code == 1
    said = capsys.readouterr().out
    assert f"{tmp_path / 'sweep' / 'L_Hx' / 'seed-1'} is not finished, and not published" in said
    names = ["puzzles/mine-L_Hx-seed-0", "puzzles/mine-Lx_H-seed-0", "puzzles/mine-Lx_H-seed-1",
             "puzzles/mine-Lx_H-ema_decay-0.99-seed-0"]  # fmt: skip
    for name in names:
        card = connected.files("model", name)["README.md"].decode()
        assert "| Lx_H | 60.0 ± 14.1 | " in card
        assert "| L_Hx | 40.0 | " in card
        assert "| Lx_H,ema_decay=0.99 | 60.0 | " in card
        assert card.count("](https://huggingface.co/puzzles/mine-") == 3  # to the others
    (collection,) = connected.collections().values()
    assert [item["id"] for item in collection["items"]] == names
    with pytest.raises(SystemExit):
        cli.main(["publish-sweep", str(tmp_path / "sweep"), "puzzles", "--name", "mine"])
    (collection,) = connected.collections().values()
    assert len(collection["items"]) == 4


def test_sweeps_that_do_not_compare_are_refused(checkpoint, tmp_path):
    for seed, count in ((0, 7), (1, 8)):
        place = tmp_path / "sweep" / "Lx_H" / f"seed-{seed}" / "checkpoint"
        shutil.copytree(checkpoint, place)
        (place / "training.json").write_text(json.dumps(training_facts()))
        (place / "evaluation.json").write_text(json.dumps(evaluation(num_puzzles=count)))
    with pytest.raises(CheckpointError, match=r"the runs differ in num_puzzles \(7, 8\) and do not compare"):
        publish_sweep(tmp_path / "sweep", "puzzles")
    with pytest.raises(CheckpointError, match="holds no finished run of a sweep"):
        publish_sweep(tmp_path / "nowhere", "puzzles")
