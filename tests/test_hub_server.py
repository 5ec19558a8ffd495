"""The Hub of support/hub_server.py does what the real client expects of it, and fails as told to.

The tests of faults also write down what the client makes of each: what it tries again by itself and what it raises.
"""

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete
from support.hub_fixtures import TOKENS, ClientError
from support.hub_server import Account, Fault, HubServer

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
    assert (url.repo_type, url.repo_id, str(url)) == (
        repo_type,
        "puzzles/it",
        f"{hub.endpoint}/{repo_type}s/puzzles/it",
    )
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
    with pytest.raises(ClientError, match="409"):
        client.create_repo(REPO)
    client.delete_file("config.json", REPO)
    client.delete_folder("sub folder", REPO)
    assert set(published.files("model", REPO)) == {".gitattributes", "README.md", "empty.txt", "model.safetensors"}
    with pytest.raises(ClientError, match="EntryNotFoundError"):
        client.delete_file("config.json", REPO)
    client.delete_repo(REPO)
    with pytest.raises(ClientError, match="RepositoryNotFoundError"):
        client.model_info(REPO)
    with pytest.raises(ClientError, match="RepositoryNotFoundError"):
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
    with pytest.raises(ClientError, match="409"):
        client.create_tag(REPO, tag="v1")
    client.delete_tag(REPO, tag="v1")
    client.delete_branch(REPO, branch="try/this")
    with pytest.raises(ClientError, match="RevisionNotFoundError"):
        client.hf_hub_download(REPO, "config.json", revision="v1")
    with pytest.raises(ClientError, match="403"):
        client.delete_branch(REPO, branch="main")


def test_private_repositories_open_to_members_only(hub, client):
    client.create_repo("puzzles/secret", private=True)
    client.upload_file(repo_id="puzzles/secret", path_or_fileobj=b"x", path_in_repo="a")
    assert client.model_info("puzzles/secret", token="hf_alice_reads").private
    for token, status in (("hf_bob", 404), (False, 401)):
        with pytest.raises(ClientError, match=f"RepositoryNotFoundError: {status}"):
            client.model_info("puzzles/secret", token=token)
        with pytest.raises(ClientError, match=f"RepositoryNotFoundError: {status}"):
            client.hf_hub_download("puzzles/secret", "a", token=token)


def test_who_may_write(published, client):
    head = published.head("model", REPO)
    for token, status in (("hf_nobody", 401), (False, 401), ("hf_alice_reads", 403), ("hf_bob", 403)):
        with pytest.raises(ClientError, match=f"{status}"):
            client.upload_file(repo_id=REPO, path_or_fileobj=b"x", path_in_repo="a", token=token)
        with pytest.raises(ClientError, match=f"{status}"):
            client.create_repo("alice/other", token=token)
    assert published.head("model", REPO) == head
    with pytest.raises(ClientError, match="Invalid user token"):
        client.whoami(token="hf_nobody")


def test_state_survives_a_restart(published, tmp_path):
    log = list(published.requests)
    with HubServer(tmp_path / "hub", {"hf_carol": Account("carol")}) as later:
        assert later.head("model", REPO) == published.head("model", REPO)
        assert later.files("model", REPO) == published.files("model", REPO)
        with urlopen(f"{later.endpoint}/{REPO}/resolve/main/config.json") as response:
            assert response.read() == FILES["config.json"]
        assert len(later.requests) == 1
    assert published.requests == log


def test_a_commit_on_an_outdated_parent_is_refused(published, client):
    parent = published.head("model", REPO)
    client.upload_file(repo_id=REPO, path_or_fileobj=b"1", path_in_repo="a", parent_commit=parent)
    with pytest.raises(ClientError, match="412"):
        client.upload_file(repo_id=REPO, path_or_fileobj=b"2", path_in_repo="a", parent_commit=parent)
    assert published.files("model", REPO)["a"] == b"1"


def test_client_retries_all_of_an_upload_but_the_commit(hub, client, tmp_path):
    client.create_repo(REPO)
    hub.inject(Fault("status", match="preupload", status=503))
    hub.inject(Fault("reset", match="lfs_batch"))
    hub.inject(Fault("reset_after", match="lfs_put"))
    hub.inject(Fault("status", match="lfs_verify", status=429))
    client.upload_file(repo_id=REPO, path_or_fileobj=b"weights", path_in_repo="model.safetensors")
    assert hub.files("model", REPO)["model.safetensors"] == b"weights"
    assert kinds(hub) == [
        "create", "preupload", "preupload", "lfs_batch", "lfs_batch", "lfs_put", "lfs_put", "lfs_verify", "lfs_verify",
        "commit",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["preupload", "lfs_batch", "lfs_put", "lfs_verify"])
@pytest.mark.parametrize("status", [401, 409])
def test_client_gives_up_an_upload_that_is_refused(hub, client, kind, status):
    client.create_repo(REPO)
    hub.inject(Fault("status", match=kind, status=status))
    # Where the client uploads in threads it hides the status behind a RuntimeError.
    with pytest.raises(ClientError, match="RuntimeError" if kind in ("lfs_put", "lfs_verify") else f"{status}"):
        client.upload_file(repo_id=REPO, path_or_fileobj=b"weights", path_in_repo="model.safetensors")
    assert hub.count(kind) == 1
    assert set(hub.files("model", REPO)) == {".gitattributes"}


@pytest.mark.parametrize("fault", [*(Fault("status", status=status) for status in (401, 409, 429, 500, 503)),
                                   Fault("reset"), Fault("reset_after")], ids=str)  # fmt: skip
def test_client_never_retries_a_commit(hub, client, fault):
    client.create_repo(REPO)
    fault.match = "commit"
    hub.inject(fault)
    with pytest.raises(ClientError, match="ReadError" if fault.kind.startswith("reset") else f"{fault.status}"):
        client.upload_file(repo_id=REPO, path_or_fileobj=b"weights", path_in_repo="model.safetensors")
    assert hub.count("commit") == 1
    took_effect = fault.kind == "reset_after"
    assert ("model.safetensors" in hub.files("model", REPO)) == took_effect
    client.upload_file(repo_id=REPO, path_or_fileobj=b"weights", path_in_repo="model.safetensors")
    assert hub.count("lfs_put") == 1  # the object is there already
    assert hub.count("commit") == (1 if took_effect else 2)  # and so is the file, if only the answer was lost


def test_client_waits_a_second_longer_than_told(published, client):
    published.inject(Fault("status", match="tree", retry_after=1))
    start = time.monotonic()
    assert len(client.list_repo_files(REPO)) == len(FILES) + 1
    assert 2 <= time.monotonic() - start < 4


def test_faults_strike_the_requests_they_are_told_to(published, client):
    published.inject(
        Fault("status", match=lambda request: request.path.endswith("/refs"), index=1, times=2, status=500)
    )
    outcomes = []
    for _ in range(4):
        try:
            outcomes.append(len(client.list_repo_refs(REPO).branches))
        except ClientError as error:
            outcomes.append(re.search(r"\d{3}", str(error))[0])
    assert outcomes == [1, "500", "500", 1]


def test_client_resumes_a_download_cut_short(hub, client):
    data = b"0123456789abcdef" * (24 * 2**16)  # the client keeps whole chunks of 10 MiB, and gets 12 of these 24 MiB
    client.create_repo(REPO)
    client.upload_file(repo_id=REPO, path_or_fileobj=data, path_in_repo="model.safetensors")
    hub.inject(Fault("truncate", match="resolve"))
    assert Path(client.hf_hub_download(REPO, "model.safetensors")).read_bytes() == data
    assert [(r.range, r.status) for r in hub.requests if r.kind == "resolve"] == [(None, 200), ("bytes=10485760-", 206)]


@pytest.mark.parametrize(("fault", "retried"), [
    (Fault("status", match="resolve_head", status=503), True),
    (Fault("status", match="resolve_head", status=401), False),
    (Fault("reset", match="resolve_head"), False),
    (Fault("status", match="resolve", status=429), True),
    (Fault("status", match="resolve", status=503), False),
    (Fault("reset", match="resolve"), False),
    (Fault("reset_mid_body", match="resolve"), False),
    (Fault("slow", match="resolve", seconds=0.5), False),
], ids=str)  # fmt: skip
def test_client_retries_little_of_a_download(published, client, fault, retried):
    published.inject(fault)
    start = time.monotonic()
    if retried or fault.kind == "slow":
        assert Path(client.hf_hub_download(REPO, "model.safetensors")).read_bytes() == FILES["model.safetensors"]
    else:
        with pytest.raises(ClientError, match="ReadError" if fault.kind.startswith("reset") else f"{fault.status}"):
            client.hf_hub_download(REPO, "model.safetensors")
    assert published.count(fault.match) == (2 if retried else 1)
    assert fault.kind != "slow" or time.monotonic() - start > 0.5


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
        try:
            ModelCard("---\\n[\\n---\\n").push_to_hub("alice/model")
        except ValueError as error:
            refused = str(error)
        print(json.dumps([model_info("alice/model").tags, card.eval_results[0].metric_value]))
    """
    assert run(hub, tmp_path / "home", script) == [["puzzles"], 0.5]
    assert not hub.unknown_requests


def test_datasets_loads_and_streams_configurations(hub, tmp_path):
    script = """if True:
        import json
        from pathlib import Path
        import datasets
        from huggingface_hub import create_repo, upload_folder
        card = "---\\nconfigs:\\n"
        for name, size in (("1k", 3), ("10k", 5)):
            rows = {"question": [f"{name} {i}" for i in range(size)]}
            datasets.Dataset.from_dict(rows).to_parquet(f"data/{name}/train.parquet")
            card += f"- config_name: {name}\\n  data_files:\\n  - {{split: train, path: {name}/train.parquet}}\\n"
        Path("data/README.md").write_text(card + "---\\n")
        create_repo("puzzles/sudoku", repo_type="dataset")
        upload_folder(repo_id="puzzles/sudoku", repo_type="dataset", folder_path="data")
        loaded = datasets.load_dataset("puzzles/sudoku", "1k")["train"]
        streamed = datasets.load_dataset("puzzles/sudoku", "10k", split="train", streaming=True)
        names = datasets.get_dataset_config_names("puzzles/sudoku")
        print(json.dumps([names, loaded["question"][:], [row["question"] for row in streamed]]))
    """
    assert run(hub, tmp_path / "home", script) == [
        ["1k", "10k"], [f"1k {i}" for i in range(3)], [f"10k {i}" for i in range(5)]
    ]  # fmt: skip
    assert not hub.unknown_requests


def test_transformers_loads_custom_code(hub, tmp_path):
    script = """if True:
        import json
        from pathlib import Path
        from huggingface_hub import create_repo, upload_folder
        from transformers import AutoModel, BertConfig, BertModel
        folder = Path("model")
        config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)
        BertModel(config).save_pretrained(folder)
        (folder / "mine.py").write_text("from transformers import BertModel\\n\\nclass Mine(BertModel):\\n    pass\\n")
        saved = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(saved | {"auto_map": {"AutoModel": "mine.Mine"}}))
        create_repo("alice/model")
        commit = upload_folder(repo_id="alice/model", folder_path=folder)
        model = AutoModel.from_pretrained("alice/model", revision=commit.oid, trust_remote_code=True)
        print(json.dumps([type(model).__name__, model.config.hidden_size]))
    """
    assert run(hub, tmp_path / "home", script) == ["Mine", 8]
    assert not hub.unknown_requests


def test_unknown_requests_are_noticed_and_tokens_are_not(hub, client, tmp_path):
    with pytest.raises(ClientError, match="404"):
        client.list_spaces_of_tomorrow() if False else client.list_user_followers("alice")
    assert [request.path for request in hub.unknown_requests] == ["/api/users/alice/followers"]
    client.create_repo(REPO)
    kept = repr(hub.requests).encode() + b"".join(contents(tmp_path / "hub").values())
    assert not any(token.encode() in kept for token in TOKENS)


def test_by_hand(tmp_path):
    command = [sys.executable, str(Path(__file__).parent / "support" / "hub_server.py"), str(tmp_path), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            endpoint = re.search(r"HF_ENDPOINT=(\S+)", server.stdout.readline())[1]
            assert json.load(urlopen(f"{endpoint}/api/agent-harnesses")) == {}
        finally:
            server.terminate()
