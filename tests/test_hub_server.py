"""The Hub of support/hub_server.py does what the real client expects of it, and fails as told to.

The tests of faults also write down what the client makes of each: what it tries again by itself and what it raises.
"""

import json
import re
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pyarrow as pa
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete
from pyarrow import parquet
from safetensors.numpy import save
from support.hub_server import Fault, HubServer

pytest_plugins = ["support.hub_fixtures"]

REPO = "alice/model"
FILES = {
    "README.md": b"---\nlicense: mit\ntags: [puzzles]\n---\n# A model\n",
    "config.json": b"{}",
    "empty.txt": b"",
    "model.safetensors": bytes(range(256)) * 20,
    "sub folder/state.pt": b"optimizer" * 100,
}
LFS_FILES = {"model.safetensors", "sub folder/state.pt"}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def contents(folder) -> dict[str, bytes]:
    files = (path for path in Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def kinds(hub) -> list[str]:
    """The requests so far, but for the one in which the client asks which agents it should know."""
    return [request.kind for request in hub.requests if request.kind != "telemetry"]


def run(hub, home: Path, script: str):
    """What a script prints as JSON in a process that knows of the Hub by its environment only."""
    done = subprocess.run(
        [sys.executable, "-c", script], env=hub.environment(home), cwd=home.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def attempt(client, name: str, *args, **kwargs) -> str:
    """What comes of a call: "done", or the name of the error that the client raises."""
    try:
        getattr(client, name)(*args, **kwargs)
    except client.Error as error:
        return str(error).partition(":")[0]
    return "done"


def upload(client, weights: bytes) -> str:
    """What comes of uploading one LFS file."""
    return attempt(client, "upload_file", repo_id=REPO, path_or_fileobj=weights, path_in_repo="model.safetensors")


@pytest.fixture
def published(hub, client, tmp_path):
    client.create_repo(REPO)
    client.upload_folder(repo_id=REPO, folder_path=write(tmp_path / "files", FILES))
    return hub


def test_what_goes_up_comes_down(published, client, tmp_path):
    assert client.whoami()["orgs"][0]["name"] == "puzzles"
    assert kinds(published)[:3] == ["create", "validate_yaml", "validate_yaml"]
    assert published.count("lfs_put") == published.count("lfs_verify") == len(LFS_FILES)
    assert published.count("commit") == 1
    expected = FILES | {".gitattributes": published.files("model", REPO)[".gitattributes"]}
    assert published.files("model", REPO) == expected
    assert client.list_repo_files(REPO) == sorted(expected)
    assert contents(client.snapshot_download(REPO)) == expected
    assert Path(client.hf_hub_download(REPO, "sub folder/state.pt")).read_bytes() == FILES["sub folder/state.pt"]
    assert not published.unknown_requests


def test_what_the_client_learns_about_a_repository(published, client):
    info = client.model_info(REPO, files_metadata=True)
    assert (info.sha, info.private, info.card_data.license) == (published.head("model", REPO), False, "mit")
    assert {file.rfilename for file in info.siblings if file.lfs} == LFS_FILES
    assert {file.rfilename: file.size for file in info.siblings}["config.json"] == 2
    assert client.model_info(REPO, expand=["tags"]).tags == ["puzzles"]
    client.upload_file(repo_id=REPO, path_or_fileobj=b"{ }", path_in_repo="config.json", commit_message="reformat")
    assert [commit.title for commit in client.list_repo_commits(REPO)] == [
        "reformat", "Upload folder using huggingface_hub", "initial commit"
    ]  # fmt: skip
    last = {
        entry.path: entry.last_commit.title
        for entry in client.get_paths_info(REPO, ["config.json", "sub folder"], expand=True)
    }
    assert last == {"config.json": "reformat", "sub folder": "Upload folder using huggingface_hub"}
    assert client.file_exists(REPO, "config.json")
    assert not client.file_exists(REPO, "other.json")
    assert not client.repo_exists("alice/other")
    assert not client.revision_exists(REPO, "other")


@pytest.mark.parametrize(("repo_type", "extra"), [("dataset", {}), ("space", {"space_sdk": "static"})])
def test_datasets_and_spaces_are_repositories_too(hub, client, repo_type, extra):
    url = client.create_repo("puzzles/it", repo_type=repo_type, **extra)
    assert url == f"{hub.endpoint}/{repo_type}s/puzzles/it"
    assert (url.repo_type, url.repo_id) == (repo_type, "puzzles/it")
    client.upload_file(repo_id="puzzles/it", repo_type=repo_type, path_or_fileobj=b"\0", path_in_repo="a")
    assert Path(client.hf_hub_download("puzzles/it", "a", repo_type=repo_type)).read_bytes() == b"\0"
    assert client.repo_info("puzzles/it", repo_type=repo_type).sha == hub.head(repo_type, "puzzles/it")


def test_large_objects_go_up_in_parts(hub, client):
    hub.part_size = 1000
    client.create_repo(REPO)
    client.upload_file(repo_id=REPO, path_or_fileobj=FILES["model.safetensors"], path_in_repo="model.safetensors")
    assert (hub.count("lfs_put"), hub.count("lfs_put_part"), hub.count("lfs_complete")) == (0, 6, 1)
    assert hub.files("model", REPO)["model.safetensors"] == FILES["model.safetensors"]


def test_nothing_goes_up_twice(published, client, tmp_path):
    head = published.head("model", REPO)
    client.upload_folder(repo_id=REPO, folder_path=tmp_path / "files")
    assert published.head("model", REPO) == head
    client.create_repo("alice/other")
    client.upload_folder(repo_id="alice/other", folder_path=tmp_path / "files")
    assert published.files("model", "alice/other") == published.files("model", REPO)
    assert published.count("lfs_put") == len(LFS_FILES)


def test_create_and_delete(published, client):
    assert client.create_repo(REPO, exist_ok=True) == f"{published.endpoint}/{REPO}"
    with pytest.raises(client.Error, match="409"):
        client.create_repo(REPO)
    client.delete_file("config.json", REPO)
    client.delete_folder("sub folder", REPO)
    assert set(published.files("model", REPO)) == {".gitattributes", "README.md", "empty.txt", "model.safetensors"}
    with pytest.raises(client.Error, match="EntryNotFoundError"):
        client.delete_file("config.json", REPO)
    client.delete_repo(REPO)
    with pytest.raises(client.Error, match="RepositoryNotFoundError"):
        client.model_info(REPO)
    with pytest.raises(client.Error, match="RepositoryNotFoundError"):
        client.delete_repo(REPO)


def test_commit_of_several_operations(published, client):
    operations = [
        CommitOperationCopy("model.safetensors", "copy.safetensors"),
        CommitOperationCopy("config.json", "copy.json"),
        CommitOperationDelete("sub folder/"),
        CommitOperationAdd("new.txt", b"new"),
    ]
    client.create_commit(REPO, operations, commit_message="all at once")
    files = published.files("model", REPO)
    assert files["copy.safetensors"] == FILES["model.safetensors"]
    assert files["copy.json"] == FILES["config.json"]
    assert files["new.txt"] == b"new"
    assert "sub folder/state.pt" not in files


def test_revisions(published, client):
    before = published.head("model", REPO)
    client.create_tag(REPO, tag="v1")
    client.create_branch(REPO, branch="try/this", revision=before[:7])
    client.upload_file(repo_id=REPO, path_or_fileobj=b"main", path_in_repo="config.json")
    client.upload_file(repo_id=REPO, path_or_fileobj=b"branch", path_in_repo="config.json", revision="try/this")
    seen = {revision: Path(client.hf_hub_download(REPO, "config.json", revision=revision)).read_bytes()
            for revision in ("main", "try/this", "v1", before)}  # fmt: skip
    assert seen == {"main": b"main", "try/this": b"branch", "v1": b"{}", before: b"{}"}
    refs = client.list_repo_refs(REPO)
    assert [branch.name for branch in refs.branches] == ["main", "try/this"]
    assert [(tag.name, tag.target_commit) for tag in refs.tags] == [("v1", before)]
    with pytest.raises(client.Error, match="409"):
        client.create_tag(REPO, tag="v1")
    client.delete_tag(REPO, tag="v1")
    client.delete_branch(REPO, branch="try/this")
    with pytest.raises(client.Error, match="RevisionNotFoundError"):
        client.hf_hub_download(REPO, "config.json", revision="v1")
    with pytest.raises(client.Error, match="403"):
        client.delete_branch(REPO, branch="main")


def test_private_repositories_open_to_members_only(hub, client):
    client.create_repo("puzzles/secret", private=True)
    client.upload_file(repo_id="puzzles/secret", path_or_fileobj=b"x", path_in_repo="a")
    assert client.model_info("puzzles/secret", token="hf_alice_reads").private
    for token, status in (("hf_bob", 404), (False, 401)):
        with pytest.raises(client.Error, match=f"RepositoryNotFoundError: {status}"):
            client.model_info("puzzles/secret", token=token)
        with pytest.raises(client.Error, match=f"RepositoryNotFoundError: {status}"):
            client.hf_hub_download("puzzles/secret", "a", token=token)


def test_who_may_write(published, client):
    head = published.head("model", REPO)
    for token, status in (("hf_nobody", 401), (False, 401), ("hf_alice_reads", 403), ("hf_bob", 403)):
        with pytest.raises(client.Error, match=f"{status}"):
            client.upload_file(repo_id=REPO, path_or_fileobj=b"x", path_in_repo="a", token=token)
        with pytest.raises(client.Error, match=f"{status}"):
            client.create_repo("alice/other", token=token)
    assert published.head("model", REPO) == head
    with pytest.raises(client.Error, match="Invalid user token"):
        client.whoami(token="hf_nobody")


def test_another_server_on_the_folder_serves_the_same(published, client, tmp_path):
    with HubServer(tmp_path / "hub", published.tokens) as later:
        assert later.head("model", REPO) == published.head("model", REPO)
        assert contents(client.snapshot_download(REPO, endpoint=later.endpoint)) == published.files("model", REPO)
        assert later.requests


def test_a_commit_on_an_outdated_parent_is_refused(published, client):
    parent = published.head("model", REPO)
    client.upload_file(repo_id=REPO, path_or_fileobj=b"1", path_in_repo="a", parent_commit=parent)
    with pytest.raises(client.Error, match="412"):
        client.upload_file(repo_id=REPO, path_or_fileobj=b"2", path_in_repo="a", parent_commit=parent)
    assert published.files("model", REPO)["a"] == b"1"


def test_client_retries_all_of_an_upload_but_the_commit(hub, client):
    client.create_repo(REPO)
    hub.inject(Fault("status", match="preupload", status=503, retry_after=1))
    hub.inject(Fault("reset", match="lfs_batch"))
    hub.inject(Fault("reset_after", match="lfs_put"))
    hub.inject(Fault("status", match="lfs_verify", status=429))
    start = time.monotonic()
    assert upload(client, b"weights") == "done"
    assert time.monotonic() - start > 5  # a second before each retry, and one more than Retry-After says
    assert hub.files("model", REPO)["model.safetensors"] == b"weights"
    assert kinds(hub) == [
        "create", "preupload", "preupload", "lfs_batch", "lfs_batch", "lfs_put", "lfs_put", "lfs_verify", "lfs_verify",
        "commit",
    ]  # fmt: skip


def test_client_gives_up_an_upload_that_is_refused(hub, client):
    client.create_repo(REPO)
    # Where the client uploads in threads, it hides what happened behind a RuntimeError.
    expected = {"preupload": "HfHubHTTPError", "lfs_batch": "HfHubHTTPError", "lfs_put": "RuntimeError",
                "lfs_verify": "RuntimeError"}  # fmt: skip
    for number, (kind, status) in enumerate(product(expected, (401, 409))):
        hub.inject(Fault("status", match=kind, status=status))
        requests = hub.count(kind)
        assert upload(client, b"%d" % number) == expected[kind], (kind, status)
        assert hub.count(kind) == requests + 1, (kind, status)
    assert set(hub.files("model", REPO)) == {".gitattributes"}


def test_client_never_retries_a_commit(hub, client):
    client.create_repo(REPO)
    faults = [Fault("status", "commit", status=status) for status in (401, 409, 429, 500, 503)]
    for number, fault in enumerate([*faults, Fault("reset", "commit"), Fault("reset_after", "commit")], start=1):
        weights = b"%d" % number
        head, commits = hub.head("model", REPO), hub.count("commit")
        hub.inject(fault)
        assert upload(client, weights) == ("HfHubHTTPError" if fault.kind == "status" else "ReadError"), fault
        assert hub.count("commit") == commits + 1, fault
        took_effect = fault.kind == "reset_after"  # then only the answer was lost
        assert (hub.head("model", REPO) != head) == took_effect, fault
        assert upload(client, weights) == "done"
        assert hub.files("model", REPO)["model.safetensors"] == weights
        assert hub.count("lfs_put") == number, fault  # the object was there already
        assert hub.count("commit") == commits + (1 if took_effect else 2), fault


def test_faults_strike_the_requests_they_are_told_to(published, client):
    published.inject(Fault("status", lambda request: "/refs" in request.path, index=1, times=2, status=500))
    outcomes = [attempt(client, "list_repo_refs", REPO) for _ in range(4)]
    assert outcomes == ["done", "HfHubHTTPError", "HfHubHTTPError", "done"]


def test_client_resumes_a_download_cut_short(hub, client):
    data = b"0123456789abcdef" * (24 * 2**16)  # the client keeps whole chunks of 10 MiB, and gets 12 of these 24 MiB
    client.create_repo(REPO)
    client.upload_file(repo_id=REPO, path_or_fileobj=data, path_in_repo="model.safetensors")
    hub.inject(Fault("truncate", match="resolve"))
    assert Path(client.hf_hub_download(REPO, "model.safetensors")).read_bytes() == data
    assert [(r.range, r.status) for r in hub.requests if r.kind == "resolve"] == [(None, 200), ("bytes=10485760-", 206)]


def test_client_retries_little_of_a_download(published, client, tmp_path):
    outcomes = [
        (Fault("status", "resolve_head", status=503), ("done", 2)),
        (Fault("status", "resolve_head", status=401), ("HfHubHTTPError", 1)),
        (Fault("reset", "resolve_head"), ("ReadError", 1)),
        (Fault("status", "resolve", status=429), ("done", 2)),
        (Fault("status", "resolve", status=503), ("HfHubHTTPError", 1)),
        (Fault("reset", "resolve"), ("ReadError", 1)),
        (Fault("reset_mid_body", "resolve"), ("ReadError", 1)),
    ]
    for number, (fault, expected) in enumerate(outcomes):
        published.inject(fault)
        requests = published.count(fault.match)
        outcome = attempt(client, "hf_hub_download", REPO, "model.safetensors", cache_dir=tmp_path / f"{number}")
        assert (outcome, published.count(fault.match) - requests) == expected, fault


def test_client_waits_for_a_slow_answer(published, client):
    published.inject(Fault("slow", "resolve", seconds=0.5))
    start = time.monotonic()
    client.hf_hub_download(REPO, "model.safetensors")
    assert time.monotonic() - start > 0.5


def test_model_card(hub, tmp_path):
    script = """if True:
        import json
        from huggingface_hub import EvalResult, ModelCard, ModelCardData, create_repo, metadata_update, model_info
        create_repo("alice/model")
        result = EvalResult(task_type="puzzles", dataset_type="alice/sudoku", dataset_name="Sudoku",
                            metric_type="accuracy", metric_value=0.5)
        data = ModelCardData(model_name="model", license="mit", eval_results=[result])
        ModelCard(f"---\\n{data.to_yaml()}\\n---\\n# Model").push_to_hub("alice/model")
        metadata_update("alice/model", {"tags": ["puzzles"]})
        card = ModelCard.load("alice/model").data
        print(json.dumps([model_info("alice/model").tags, card.eval_results[0].metric_value]))
    """
    assert run(hub, tmp_path / "home", script) == [["puzzles"], 0.5]
    assert not hub.unknown_requests


def test_datasets_loads_and_streams_configurations(hub, client, tmp_path):
    folder, card = tmp_path / "files", "---\nconfigs:\n"
    for name, size in (("1k", 3), ("10k", 5)):
        (folder / name).mkdir(parents=True)
        table = pa.table({"question": [f"{name} {i}" for i in range(size)]})
        parquet.write_table(table, folder / name / "train.parquet")
        card += f"- config_name: {name}\n  data_files: {name}/train.parquet\n"
    write(folder, {"README.md": f"{card}---\n".encode()})
    client.create_repo("puzzles/sudoku", repo_type="dataset")
    client.upload_folder(repo_id="puzzles/sudoku", repo_type="dataset", folder_path=folder)
    script = """if True:
        import datasets, json
        names = datasets.get_dataset_config_names("puzzles/sudoku")
        loaded = datasets.load_dataset("puzzles/sudoku", "1k")["train"]
        streamed = datasets.load_dataset("puzzles/sudoku", "10k", split="train", streaming=True)
        print(json.dumps([names, loaded["question"][:], [row["question"] for row in streamed]]))
    """
    rows = [f"1k {i}" for i in range(3)], [f"10k {i}" for i in range(5)]
    assert run(hub, tmp_path / "home", script) == [["1k", "10k"], *rows]
    assert not hub.unknown_requests


def test_transformers_loads_custom_code(hub, client, tmp_path):
    code = """if True:
        from torch import nn
        from transformers import PretrainedConfig, PreTrainedModel

        class MineConfig(PretrainedConfig):
            model_type = "mine"

        class Mine(PreTrainedModel):
            config_class = MineConfig

            def __init__(self, config):
                super().__init__(config)
                self.layer = nn.Linear(1, 1)
                self.post_init()
    """
    config = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.MineConfig", "AutoModel": "mine.Mine"}}
    weights = {"layer.weight": np.ones((1, 1), np.float32), "layer.bias": np.full(1, 7, np.float32)}
    files = {"mine.py": code.encode(), "config.json": json.dumps(config).encode(), "model.safetensors": save(weights)}
    client.create_repo(REPO)
    commit = client.upload_folder(repo_id=REPO, folder_path=write(tmp_path / "files", files))
    script = f"""if True:
        import json
        from transformers import AutoModel
        model = AutoModel.from_pretrained("{REPO}", revision="{commit.oid}", trust_remote_code=True)
        print(json.dumps([type(model).__name__, model.layer.bias.item()]))
    """
    assert run(hub, tmp_path / "home", script) == ["Mine", 7]
    assert not hub.unknown_requests


def test_unknown_requests_are_noticed_and_tokens_are_not(hub, client, tmp_path):
    with pytest.raises(client.Error, match="404"):
        client.get_user_overview("alice")
    assert [request.path for request in hub.unknown_requests] == ["/api/users/alice/overview"]
    client.create_repo(REPO)
    kept = repr(hub.requests).encode() + b"".join(contents(tmp_path / "hub").values())
    assert not any(token.encode() in kept for token in hub.tokens)


def test_by_hand(tmp_path):
    command = [sys.executable, str(Path(__file__).parent / "support" / "hub_server.py"), str(tmp_path), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            endpoint = re.search(r"HF_ENDPOINT=(\S+)", server.stdout.readline())[1]
            assert json.load(urlopen(f"{endpoint}/api/agent-harnesses")) == {}
        finally:
            server.terminate()
