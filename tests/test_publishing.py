"""Data sets on the Hub, with the real client against the server of support/: publish, load, train, and every fault."""

import json
import math
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from support.hub_processes import (
    FAULTS,
    MOST_FAULTS,
    PATIENT,
    ROOT,
    STALLED,
    client_pool,
    command,
    contents,
    run,
    time_limit,
)
from support.hub_server import Fault, Reply
from support.training import make_csv

from air_hf.run_recipe import RunRecipe
from air_hf.runs.data import load_data, load_repository
from air_hf.solving.stream import read_dataset

pytest_plugins = ["support.hub_fixtures"]
REPO = "puzzles/tiny-sudoku"


@pytest.fixture(scope="module")
def csv_folder(tmp_path_factory) -> Path:
    return make_csv(tmp_path_factory.mktemp("csv"), train=40, test=16)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with two Parquet files, a picture, a card and a JSON file, as `air-hf data build` leaves it."""
    from air_hf.dataset_builders.folder import build_folder
    from air_hf.dataset_builders.sudoku import SudokuExtreme

    home = tmp_path_factory.mktemp("built")
    options = {"puzzle": "sudoku-4x4", "num_train": 40, "num_test": 16, "subsample_size": 40, "seed": 1}
    builder = SudokuExtreme("1k", source="generate", cache_dir=str(home / "cache"), **options)
    build_folder([builder], home / "tiny", "apache-2.0")
    return home / "tiny"


def test_one_command_publishes_and_another_loads(hub, csv_folder, tmp_path):
    """From the Hub's own data set to ours: built at a pinned revision, published, loaded, streamed, trained on."""
    home, folder = tmp_path / "home", tmp_path / "built"
    with client_pool(hub, home) as pool:
        pool.submit(upload_source, csv_folder).result()
        commit = hub.head("dataset", "sapientinc/sudoku-extreme")
        words = ["--configs", "1k,full", "--puzzle", "sudoku-4x4", "--subsample_size", 30, "--revision", commit[:12]]
        words = ["data", "build", "sudoku", "--source", "hub", "--output", folder, *words]
        done = pool.submit(command, *words).result()
        assert done.returncode == 0, done.stderr
        provenance = json.loads((folder / "provenance.json").read_text())
        assert provenance["1k"]["source"]["revision"] == commit
        done = pool.submit(command, "data", "publish", folder, REPO).result()
    assert done.returncode == 0, done.stderr
    assert f'datasets.load_dataset("{REPO}", "1k")' in done.stdout
    assert published(hub, REPO) == contents(folder)

    with client_pool(hub, tmp_path / "other home") as pool:
        rows, streamed = pool.submit(load_rows).result()
        done = pool.submit(command, "data", "info", REPO, "--check").result()
    assert done.returncode == 0, done.stderr
    assert "every file and row is as it was built" in done.stdout
    assert streamed == rows["test"]
    lines = (csv_folder / "train.csv").read_text().splitlines()[1:]
    chosen = provenance["1k"]["splits"]["train"]["rows_of_file"]
    loaded = [f"{row['source']},{row['question']},{row['answer']},{row['rating']:g}" for row in rows["train"]]
    assert [line.replace('"', "") for line in (lines[row] for row in chosen)] == loaded

    words = [sys.executable, "-m", "air_hf.cli", "data", "info", REPO]
    denied = run(hub, tmp_path / "bob", *words, token="hf_bob", check=False)  # it is private
    assert denied.returncode == 2
    assert f"{REPO}: cannot be read from the Hub" in denied.stderr

    words = ["--config", "examples/configs/quickstart.yaml", "--dataset", REPO, "--dataset_config", "1k",
             "--output_dir", tmp_path / "run", "--hidden_size", 32, "--num_attention_heads", 2, "--max_segments", 2,
             "--num_hidden_layers", 1, "--compile", "off", "--max_steps", 2, "--warmup_steps", 1]  # fmt: skip
    words = [sys.executable, "examples/train.py", *words]
    recipe = (ROOT / "examples/configs/quickstart.yaml").read_text()
    without_data = "\n".join(line for line in recipe.splitlines() if not line.startswith(("train_data", "test_data")))
    (tmp_path / "recipe.yaml").write_text(without_data)
    words[words.index("examples/configs/quickstart.yaml")] = tmp_path / "recipe.yaml"
    done = run(hub, home, *words)
    assert f"30 sudoku-4x4 puzzles of {REPO}, 1k, train" in done.stdout
    checkpoint = tmp_path / "run" / "checkpoint"
    done = run(hub, home, sys.executable, "examples/evaluate.py", "--checkpoint", checkpoint, "--dataset", REPO)
    assert "16 of sudoku-4x4" in done.stdout
    assert not hub.unknown_requests


def test_the_commit_of_the_cache_is_recorded(hub, built, tmp_path):
    """Where the Hub is out of reach; another one than that is never taken for it. `--cache_dir` is that cache."""
    with client_pool(hub, tmp_path / "home") as pool:
        pool.submit(push, built, REPO).result()
    commit, cache, scores = hub.head("dataset", REPO), tmp_path / "cache", tmp_path / "scores.json"

    def evaluate(pool, *words) -> subprocess.CompletedProcess:
        words = ["--checkpoint", "sudoku-4x4", "--dataset", REPO, "--max_segments", 1, "--cache_dir", cache,
                 "--output", scores, *words]  # fmt: skip
        return pool.submit(command, "evaluate", *words).result()

    home = tmp_path / "home"
    with client_pool(hub, home) as online, client_pool(hub, home, HF_HUB_OFFLINE="1") as offline:
        for pool, words in ((online, []), (offline, ["--dataset_revision", commit]), (offline, [])):
            done = evaluate(pool, *words)
            assert done.returncode == 0, done.stderr
            recorded = json.loads(scores.read_text())
            assert (recorded["dataset"], recorded["dataset_revision"]) == (REPO, commit)
            scores.unlink()
        assert not (home / "datasets").exists()
        done = evaluate(offline, "--dataset_revision", "0" * 40)
    assert done.returncode == 2
    assert f"commit {'0' * 40} cannot be had from the Hub; the cache holds commit {commit}" in done.stderr
    assert not scores.exists()


def test_training_reads_through_its_cache(hub, built, tmp_path):
    with client_pool(hub, tmp_path / "home") as pool:
        pool.submit(push, built, REPO).result()
        recipe = RunRecipe(dataset=REPO, cache_dir=str(tmp_path / "cache"))
        sources = pool.submit(load_data, recipe).result()
    assert [source.dataset_revision for source in sources] == [hub.head("dataset", REPO)] * 2
    assert not (tmp_path / "home" / "datasets").exists()


def test_an_unknown_commit_is_said(built, monkeypatch):
    """As where a later version of `datasets` lays out its cache in another way."""
    monkeypatch.setattr("air_hf.data._commit_of", lambda rows: None)
    monkeypatch.setattr("air_hf.runs.data.Path.exists", lambda path: False)  # so that a folder counts as a repository
    with pytest.warns(UserWarning, match="which commit of it was loaded is unknown, and not recorded"):
        source = load_repository(str(built), None, "test")
    assert source.origin()["dataset_revision"] is None


def upload_source(folder: Path) -> None:
    from huggingface_hub import HfApi

    api = HfApi(token="hf_sapient")
    api.create_repo("sapientinc/sudoku-extreme", repo_type="dataset")
    for split in ("train", "test"):
        api.upload_file(
            repo_id="sapientinc/sudoku-extreme",
            repo_type="dataset",
            path_or_fileobj=folder / f"{split}.csv",
            path_in_repo=f"{split}.csv",
        )


def load_rows() -> tuple[dict[str, list[dict]], list[dict]]:
    """The rows of both splits, and those of the test split streamed."""
    from datasets import load_dataset

    rows = {split: load_dataset(REPO, "1k", split=split).to_list() for split in ("train", "test")}
    return rows, list(load_dataset(REPO, "1k", split="test", streaming=True))


def push(folder: Path, repository: str, timeout: float = PATIENT) -> str:
    """The commit, or what went wrong, without waiting between tries."""
    from air_hf import hub
    from air_hf.hub import transfer

    transfer._WAITS = (0.01, 0.01)
    try:
        return hub.push_folder(folder, repository, "dataset", timeout=timeout)
    except hub.PublishError as error:
        return f"PublishError: {error}"


TRY_AGAIN = "another try sends only what is missing"
ADVICE = {400: "the push failed", 401: "the Hub does not know the token", 403: "the token may not write there",
          404: "there is no such repository"}  # fmt: skip


@pytest.mark.parametrize("faults", [MOST_FAULTS, pytest.param(FAULTS[len(MOST_FAULTS) :], marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "kind",
    ["create", "lfs_put", "commit",
     *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("validate_yaml", "preupload", "lfs_batch"))],
)  # fmt: skip
def test_every_fault_at_every_request_of_a_push(hub, built, tmp_path, kind, faults):
    """The repository holds its old state or its new one, the build is untouched, and the same push completes it."""
    with client_pool(hub, tmp_path / "home") as pool:
        for number, template in enumerate(faults):
            folder, repository = tmp_path / f"{number}", f"puzzles/set-{number}"
            shutil.copytree(built, folder)
            (folder / "data" / "1k" / "own.parquet").write_bytes(bytes([number]))  # something to upload every time
            local = contents(folder)
            fault = replace(template, match=kind)
            hub.inject(fault)
            started = time.monotonic()
            first = pool.submit(push, folder, repository, time_limit(template)).result()
            assert time.monotonic() - started < time_limit(template) + 5
            assert template.kind != "stall" or f"no end after {STALLED} seconds" in first
            assert fault.seen, f"{kind} is no request of a push"
            if first.startswith("PublishError"):
                check_failure(first, hub, repository, {}, local)
                wanted = ADVICE.get(template.status, TRY_AGAIN) if template.kind == "status" else TRY_AGAIN
                assert wanted in first or (template.status == 404 and TRY_AGAIN in first)  # a file that was lost
            assert not pool.submit(push, folder, repository).result().startswith("PublishError")
            assert published(hub, repository) == local == contents(folder)
    assert not hub.unknown_requests


@pytest.mark.parametrize("kind", ["commit", "create"])
def test_a_hub_that_keeps_failing(hub, built, tmp_path, kind):
    with client_pool(hub, tmp_path / "home") as pool:
        fault = Fault("status", kind, times=math.inf)
        hub.inject(fault)
        message = pool.submit(push, built, REPO).result()
        check_failure(message, hub, REPO, {}, {})
        assert TRY_AGAIN in message
        assert fault.seen == 3
        fault.times = 0
        pool.submit(push, built, REPO).result()
    assert published(hub, REPO) == contents(built)


def check_failure(message: str, hub, repository: str, *states: dict[str, bytes]) -> None:
    assert message.startswith("PublishError")
    assert "the push failed" in message
    assert "hf_alice" not in message
    assert published(hub, repository) in states


def published(hub, repository) -> dict[str, bytes]:
    """What a repository holds; nothing where it does not exist yet."""
    if not hub.exists("dataset", repository):
        return {}
    return {path: data for path, data in hub.files("dataset", repository).items() if path != ".gitattributes"}


@pytest.mark.slow
def test_both_families_to_a_hub_and_back(tmp_path):
    """What `make hub-publish` and `make hub-load` run, in small."""
    for words in (["publish", tmp_path, "--train", 6, "--test", 3], ["load", tmp_path]):
        done = subprocess.run(
            [sys.executable, "tests/support/hub_demo.py", *map(str, words)], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    assert "me/sudoku, 1k-aug-1000, train: 6,006 rows are equal" in done.stdout
    assert "me/maze, 1k-aug-8, train: 48 rows are equal" in done.stdout


def test_a_push_replaces_what_it_brought_before(hub, built, tmp_path):
    with client_pool(hub, tmp_path / "home") as pool:
        old = tmp_path / "old"
        (old / "data" / "9k").mkdir(parents=True)
        (old / "data" / "9k" / "train-00000-of-00001.parquet").write_bytes(b"old")
        (old / "notes.md").write_text("kept")
        pool.submit(push, old, REPO).result()
        pool.submit(push, built, REPO).result()
    files = hub.files("dataset", REPO)
    assert "data/9k/train-00000-of-00001.parquet" not in files
    assert files["notes.md"] == b"kept"


IMPOSSIBLE = [
    (["nowhere", REPO], "nowhere has no provenance.json; expected a folder that `air-hf data build` made"),
    (["{built}", "no name"], "'no name' is no name of a repository; expected ORG/NAME"),
    (["{built}", "bob/set"], "bob/set: the push failed"),
    (["{built}", REPO, "--timeout", "nan"], "timeout is nan; it must be a positive number of seconds"),
]


def test_impossible_pushes(hub, built, tmp_path):
    with client_pool(hub, tmp_path / "home") as pool:
        for words, message in IMPOSSIBLE:
            words = [word.format(built=built) for word in words]
            done = pool.submit(command, "data", "publish", *words).result()
            assert done.returncode == 2
            assert message in done.stderr
    assert not hub.count("commit")


def test_a_silent_hub_does_not_keep_what_is_pushed_by_hand(hub, built, tmp_path):
    folder = shutil.copytree(built, tmp_path / "folder")  # whose card is given the repository's name
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "models.json").write_text("{}")
    hub.inject(Fault("stall", times=math.inf))
    with client_pool(hub, tmp_path / "home") as pool:
        for words in (["data", "publish", folder], ["publish-space", "--folder", tmp_path / "page"]):
            done = pool.submit(command, *words, "puzzles/x", "--timeout", 2).result()
            assert done.returncode == 2
            assert "puzzles/x: the push failed (no end after 2 seconds)" in done.stderr


def answer(body: bytes, status: int = 200):
    """What changes every answer into this one."""
    headers = {"Content-Type": "application/json"} | ({"Location": "/again"} if status == 302 else {})
    return lambda reply: Reply(status=status, body=body, headers=headers)


ENDLESS = "/api/datasets/puzzles/set"
ODD_HUBS = {
    "html": Fault("html"),
    "object": Fault("change", change=answer(b"{}")),
    "list": Fault("change", change=answer(b"[]")),
    "redirects": Fault("change", change=lambda reply: replace(reply, status=307, headers={"Location": ENDLESS})),
    "silence": Fault("stall"),
}
READERS = {
    "evaluate": ("--checkpoint", "sudoku-4x4", "--dataset", "puzzles/set"),
    "solve": ("--model", "sudoku-4x4", "--dataset", "puzzles/set", "--output", "OUTPUT"),
    "solve --model": ("--model", "puzzles/set", "1..............."),
    "data info": ("puzzles/set", "--check"),
    "train": ("--dataset", "puzzles/set", "--output_dir", "OUTPUT"),
}
FIRST = [("redirects", "solve"), ("list", "data info"), ("object", "data info"), ("silence", "solve --model")]
OTHERS = [case for case in product(ODD_HUBS, READERS) if case not in FIRST]


@pytest.mark.parametrize("cases", [FIRST, pytest.param(OTHERS, marks=pytest.mark.slow)], ids=["first", "others"])
def test_reading_from_what_is_no_hub(hub, tmp_path, cases):
    """One line, with the repository, and soon."""
    with client_pool(hub, tmp_path / "home", HF_HUB_DOWNLOAD_TIMEOUT="1") as pool:
        for kind, reader in cases:
            fault = replace(ODD_HUBS[kind], times=math.inf)
            hub.inject(fault)
            words = [tmp_path / "output" if word == "OUTPUT" else word for word in READERS[reader]]
            started, typed = time.monotonic(), reader.split(" --")[0].split()
            done = pool.submit(command, *typed, *words).result()
            fault.times = 0
            assert time.monotonic() - started < 40
            assert done.returncode == 2, (kind, reader, done.stderr)
            assert "Traceback" not in done.stderr
            last = done.stderr.strip().splitlines()[-1]
            assert last.startswith(f"air-hf {typed[0]}: error: ")
            assert "puzzles/set" in last
            assert not (tmp_path / "output").exists()


def test_boards_are_streamed_through_the_cache_that_is_said(built, tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr("datasets.load_dataset", lambda *args, **options: seen.update(options) or [{"question": "1"}])
    rows = read_dataset("puzzles/set", None, "test", str(tmp_path / "cache"))
    assert [row.question for row in rows] == ["1"]
    assert seen["cache_dir"] == str(tmp_path / "cache")
