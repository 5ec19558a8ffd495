"""A Hugging Face Hub on loopback: the HTTP interface that the real, unpatched `huggingface_hub` client uses.

Model, dataset and Space repositories live in a folder, so that a new server on the same folder serves the same
repositories. Files go up by git or by LFS (the way the client takes with HF_HUB_DISABLE_XET=1), a commit becomes
visible in one step, private repositories open to their members' tokens only, and any request can be made to fail.

By hand: `python tests/support/hub_server.py FOLDER --port 8000` prints what to export in another shell, where `hf`,
`huggingface_hub`, `datasets` and `transformers` then talk to this server. In tests: the `hub` fixture of
hub_fixtures.py, or

    with HubServer(folder, {"hf_alice": Account("alice")}) as hub:
        hub.inject(Fault("status", match="lfs_put", status=503))
        subprocess.run(command, env=hub.environment(home))
        assert hub.count("commit") == 1 and not hub.unknown_requests

Simpler than the Hub: all repositories share their blobs, listings have one page, there are no pull requests, no gating,
no .gitignore rules and no Xet, and only one server at a time may write to a folder.
"""

import argparse
import base64
import hashlib
import json
import logging
import os
import re
import shutil
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from email.message import Message
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, quote, unquote, urlsplit

import yaml

LFS_SUFFIXES = (".arrow", ".bin", ".gz", ".npz", ".parquet", ".png", ".pt", ".safetensors", ".zip")
LFS_SIZE = 10 * 2**20  # larger files go to LFS whatever their name, and so do files with a zero byte near their start
GIT_ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()
LOG = logging.getLogger("hub_server")


# What a test sets up and what it looks at: accounts, faults and the log of requests.


@dataclass(frozen=True)
class Account:
    """Whom a token stands for: a user, what the token may do, and the organisations the user is a member of."""

    name: str
    role: Literal["read", "write"] = "write"
    orgs: tuple[str, ...] = ()

    def is_member(self, namespace: str) -> bool:
        return namespace == self.name or namespace in self.orgs


@dataclass
class Request:
    """One request as the log keeps it: no headers but Range, so that no token is ever written down."""

    method: str
    path: str
    kind: str  # the name of the endpoint function, or "unknown"
    range: str | None = None
    fault: str | None = None  # the kind of fault that struck
    status: int | None = None  # what was answered; None for a connection that was reset instead


@dataclass
class Fault:
    """Strikes `times` of the matching requests (`math.inf`: all), from number `index` on, counted from its injection.

    status:          answers `status` (with Retry-After if given) instead of doing what was asked
    slow:            waits `seconds`, then serves
    reset:           resets the connection before anything took effect
    reset_after:     does what was asked, then resets the connection: the answer is lost
    reset_mid_body:  sends the headers and half of the body, then resets the connection
    truncate:        sends the headers and half of the body, then closes the connection in good order
    html:            answers 200 with a page of HTML, as a proxy does that wants somebody to log in
    stall:           accepts the request and never answers
    change:          does what was asked, and sends what `change` makes of the answer
    """

    kind: Literal["status", "slow", "reset", "reset_after", "reset_mid_body", "truncate", "html", "stall", "change"]
    match: str | Callable[[Request], bool] = lambda request: True  # the kind of requests, or any predicate
    index: int = 0
    times: float = 1
    status: int = 503
    retry_after: float | None = None
    seconds: float = 1
    change: Callable[["Reply"], "Reply"] = lambda reply: reply
    seen: int = field(default=0, init=False)

    def strikes(self, request: Request) -> bool:
        if not (request.kind == self.match if isinstance(self.match, str) else self.match(request)):
            return False
        self.seen += 1
        return self.index < self.seen <= self.index + self.times


# Storage: blobs by sha256, and for each repository its settings, its commits by sha and one file per branch and tag.


class HubError(Exception):
    """An answer other than success; `code` is the X-Error-Code by which the client chooses its exception."""

    def __init__(self, status: int, message: str, code: str | None = None, **body):
        super().__init__(message)
        self.status, self.message, self.code, self.body = status, message, code, body


def write_atomically(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{uuid.uuid4().hex}")
    beside.write_bytes(data)
    os.replace(beside, path)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def lfs_pointer(sha256: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


@dataclass(frozen=True)
class File:
    """One file of a tree: `oid` is git's name for it (for its pointer, if `lfs`), `sha256` names its blob."""

    oid: str
    size: int
    sha256: str
    lfs: bool


Tree = dict[str, File]


@dataclass(frozen=True)
class Commit:
    sha: str
    parent: str | None
    time: str
    author: str
    title: str
    message: str
    tree: Tree

    def below(self, path: str) -> Tree:
        """The files of a folder, or the one file of that name."""
        return {name: file for name, file in self.tree.items() if name == path or name.startswith(f"{path}/")}


class Blobs:
    """The contents of all files, each under its sha256."""

    def __init__(self, folder: Path):
        self.folder = folder

    def path(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / sha256

    def add(self, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        write_atomically(self.path(sha256), data)
        return sha256

    def has(self, sha256: str, size: int) -> bool:
        return self.path(sha256).exists() and self.path(sha256).stat().st_size == size

    def read(self, file: File, start: int = 0, end: int | None = None) -> bytes:
        with self.path(file.sha256).open("rb") as blob:
            blob.seek(start)
            return blob.read((file.size if end is None else end) - start)


class Repo:
    """A repository: nothing in its folder ever changes but the branches and tags, each replaced in one step."""

    def __init__(self, folder: Path, kind: Literal["models", "datasets", "spaces"], repo_id: str):
        self.folder, self.kind, self.id = folder / kind / quote(repo_id, safe=""), kind, repo_id
        self.namespace = repo_id.partition("/")[0]
        self.url = repo_id if kind == "models" else f"{kind}/{repo_id}"

    @property
    def settings(self) -> dict | None:
        """What the repository was created with, None if it was not."""
        path = self.folder / "settings.json"
        return json.loads(path.read_bytes()) if path.exists() else None

    def create(self, **settings) -> None:
        write_atomically(self.folder / "settings.json", json.dumps(settings).encode())

    def delete(self) -> None:
        gone = self.folder.with_name(f".{uuid.uuid4().hex}")
        self.folder.rename(gone)  # one step: nobody ever finds half a repository
        shutil.rmtree(gone)

    def refs(self, group: Literal["heads", "tags"]) -> dict[str, str]:
        """The branches or the tags, with the sha of the commit that each points to."""
        return {unquote(path.name): path.read_text() for path in sorted(self.folder.glob(f"refs/{group}/[!.]*"))}

    def set_ref(self, group: Literal["heads", "tags"], name: str, sha: str) -> None:
        write_atomically(self.folder / "refs" / group / quote(name, safe=""), sha.encode())

    def delete_ref(self, group: Literal["heads", "tags"], name: str) -> None:
        if name not in self.refs(group):
            raise HubError(404, f"Invalid rev id: {name}", "RevisionNotFound")
        (self.folder / "refs" / group / quote(name, safe="")).unlink()

    def commit(self, sha: str) -> Commit:
        facts = json.loads((self.folder / "commits" / sha).read_bytes())
        return Commit(sha, **facts | {"tree": {path: File(**file) for path, file in facts["tree"].items()}})

    def resolve(self, revision: str) -> Commit:
        """The commit that a branch, a tag or at least 7 digits of a sha name."""
        sha = (self.refs("tags") | self.refs("heads")).get(revision)
        if sha is None and re.fullmatch("[0-9a-f]{7,40}", revision):
            sha = next((path.name for path in self.folder.glob(f"commits/{revision}*")), None)
        if sha is None:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commit(sha)

    def history(self, commit: Commit) -> Iterator[Commit]:
        yield commit
        while commit.parent:
            commit = self.commit(commit.parent)
            yield commit

    def last_change(self, commit: Commit, path: str) -> Commit:
        """The newest commit that touched a file or a folder."""
        while commit.parent and (parent := self.commit(commit.parent)).below(path) == commit.below(path):
            commit = parent
        return commit

    def add_commit(self, branch: str, tree: Tree, author: str, title: str, message: str = "") -> str:
        facts = {"parent": self.refs("heads").get(branch), "time": now(), "author": author, "title": title,
                 "message": message, "tree": {path: asdict(file) for path, file in tree.items()}}  # fmt: skip
        data = json.dumps(facts, indent=1).encode()
        sha = hashlib.sha1(data).hexdigest()
        write_atomically(self.folder / "commits" / sha, data)
        self.set_ref("heads", branch, sha)  # the commit exists from here on
        return sha


# Endpoints: a function's decorator is its line in the routing table, its name is the kind of its requests.


@dataclass
class Reply:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def answer(value, status: int = 200, **headers: str) -> Reply:
    body = json.dumps(value, default=str).encode()  # str: a README's metadata may hold dates
    return Reply(status, body, {"Content-Type": "application/json"} | headers)


def refuse(error: HubError, **headers: str) -> Reply:
    code = {"X-Error-Code": error.code} if error.code else {}
    return answer({"error": error.message} | error.body, error.status, **headers, **code)


Access = Literal["open", "token", "read", "write"]  # anybody; any token; may read, may write the repository in the path


@dataclass
class Call:
    """What an endpoint function works with; looking at `account` or `repo` raises what the Hub would refuse."""

    hub: "HubServer"
    args: dict[str, str]  # the named parts of the path
    query: dict[str, list[str]]
    headers: Message
    body: bytes

    @cached_property
    def json(self) -> dict:
        return json.loads(self.body)

    @cached_property
    def account(self) -> Account | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.tokens:
            raise HubError(401, "Invalid credentials in Authorization header")
        return self.hub.tokens.get(token)

    @cached_property
    def repo(self) -> Repo:
        """A private repository looks like one that does not exist to those it is closed to."""
        repo = Repo(self.hub.folder, self.args["type"] or "models", self.args["id"])
        is_member = self.account is not None and self.account.is_member(repo.namespace)
        if not repo.settings or (repo.settings["private"] and not is_member):
            raise HubError(404 if self.account else 401, "Repository not found", "RepoNotFound")
        return repo

    @property
    def commit(self) -> Commit:
        return self.repo.resolve(self.args["revision"])

    def url(self, path: str) -> str:
        return f"{self.hub.endpoint}/{path}"

    def check(self, access: Access) -> None:
        if access in ("read", "write"):
            _ = self.repo
        if access in ("token", "write") and not self.account:
            raise HubError(401, "Invalid username or password.")
        if access == "write":
            self.check_writer(self.repo.namespace)

    def check_writer(self, namespace: str) -> None:
        if self.account.role != "write":
            raise HubError(403, "Forbidden: you must use a write token to upload to a repository")
        if not self.account.is_member(namespace):
            raise HubError(403, f"Forbidden: you don't have the rights to write under the namespace {namespace}")


@dataclass(frozen=True)
class Route:
    method: str
    pattern: re.Pattern
    access: Access
    function: Callable[[Call], Reply]

    def reply(self, call: Call) -> Reply:
        try:
            _ = call.account  # a wrong token is refused everywhere
            call.check(self.access)
            return self.function(call)
        except HubError as error:
            return refuse(error)
        except Exception as error:
            LOG.exception("error in the server itself")
            call.hub.errors.append(error)
            return answer({"error": repr(error)}, 500)


ROUTES: list[Route] = []
REPO_ID = "(?P<id>[^/]+/[^/]+)"
PATH_PARTS = {
    "repo": f"(?P<type>models|datasets|spaces)/{REPO_ID}",
    "repo_slug": REPO_ID,
    "home": f"(?:(?P<type>datasets|spaces)/)?{REPO_ID}",
    "revision": "(?P<revision>[^/]+)",
    "name": "(?P<name>[^/]+)",
    "path": "(?P<path>.+)",
    "oid": "(?P<oid>[0-9a-f]+)",
    "part": "(?P<part>[0-9]+)",
}


def endpoint(method: str, path: str, access: Access):
    def register(function: Callable[[Call], Reply]):
        ROUTES.append(Route(method, re.compile(path.format(**PATH_PARTS)), access, function))
        return function

    return register


@endpoint("GET", "/api/whoami-v2", "token")
def whoami(call: Call) -> Reply:
    name, role = call.account.name, call.account.role
    orgs = [{"type": "org", "name": org, "fullname": org, "roleInOrg": role} for org in call.account.orgs]
    token = {"type": "access_token", "accessToken": {"displayName": "local", "role": role}}
    return answer({"type": "user", "id": name, "name": name, "fullname": name, "orgs": orgs, "auth": token})


@endpoint("POST", "/api/repos/create", "token")
def create(call: Call) -> Reply:
    repo = named_in_body(call)
    with call.hub.lock:
        if repo.settings:
            raise HubError(409, "You already created this repository", url=call.url(repo.url))
        repo.add_commit(
            "main", {".gitattributes": regular_file(call.hub.blobs, GIT_ATTRIBUTES)}, "system", "initial commit"
        )
        private = call.json.get("visibility") == "private" or bool(call.json.get("private"))
        repo.create(private=private, created=now(), sdk=call.json.get("sdk"))
    return answer({"url": call.url(repo.url), "id": repo.id})


@endpoint("DELETE", "/api/repos/delete", "token")
def delete(call: Call) -> Reply:
    repo = named_in_body(call)
    with call.hub.lock:
        if not repo.settings:
            raise HubError(404, "Repository not found", "RepoNotFound")
        repo.delete()
    return answer({})


def named_in_body(call: Call) -> Repo:
    namespace = call.json.get("organization") or call.account.name
    call.check_writer(namespace)
    return Repo(call.hub.folder, f"{call.json.get('type') or 'model'}s", f"{namespace}/{call.json['name']}")


@endpoint("GET", "/api/{repo}", "read")
def repo_info(call: Call) -> Reply:
    return describe_repo(call, call.repo.resolve("main"))


@endpoint("GET", "/api/{repo}/revision/{revision}", "read")
def revision_info(call: Call) -> Reply:
    return describe_repo(call, call.commit)


def describe_repo(call: Call, commit: Commit) -> Reply:
    repo, settings, card = call.repo, call.repo.settings, card_data(call.hub.blobs, commit)
    facts = {"id": repo.id, "author": repo.namespace, "sha": commit.sha, "private": settings["private"],
             "createdAt": settings["created"], "lastModified": commit.time, "gated": False, "disabled": False,
             "downloads": 0, "likes": 0, "tags": card.get("tags", []), "cardData": card}  # fmt: skip
    facts["siblings"] = [
        {"rfilename": path} | (describe_blob(file) if "blobs" in call.query else {})
        for path, file in sorted(commit.tree.items())
    ]
    if repo.kind == "models":
        facts |= {key: card[key] for key in ("library_name", "pipeline_tag") if key in card}
    if repo.kind == "spaces":
        facts["sdk"] = settings["sdk"]
    if expand := call.query.get("expand"):
        facts = {key: value for key, value in facts.items() if key in ("id", *expand)}
    return answer(facts)


def describe_blob(file: File) -> dict:
    lfs = {"lfs": describe_lfs(file) | {"sha256": file.sha256}} if file.lfs else {}
    return {"size": file.size, "blobId": file.oid} | lfs


def describe_lfs(file: File) -> dict:
    return {"oid": file.sha256, "size": file.size, "pointerSize": len(lfs_pointer(file.sha256, file.size))}


def card_data(blobs: Blobs, commit: Commit) -> dict:
    readme = commit.tree.get("README.md")
    with suppress(ValueError, yaml.YAMLError):  # a commit may hold any README, whatever the client checks before
        return front_matter(blobs.read(readme).decode()) if readme else {}
    return {}


def front_matter(readme: str) -> dict:
    match = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", readme, re.DOTALL)
    metadata = yaml.safe_load(match[1]) if match else None
    if not isinstance(metadata, dict | None):
        raise ValueError("the metadata of README.md is not a mapping")
    return metadata or {}


@endpoint("POST", "/api/validate-yaml", "open")
def validate_yaml(call: Call) -> Reply:
    try:
        front_matter(call.json["content"])
    except (ValueError, yaml.YAMLError) as error:
        return answer({"errors": [{"message": str(error)}], "warnings": []}, 400)
    return answer({"errors": [], "warnings": []})


@endpoint("GET", "/api/{repo}/tree/{revision}", "read")
@endpoint("GET", "/api/{repo}/tree/{revision}/{path}", "read")
def tree(call: Call) -> Reply:
    commit, folder = call.commit, call.args.get("path", "").strip("/")
    if folder and not commit.below(folder):
        raise HubError(404, f"{folder} does not exist on {call.args['revision']}", "EntryNotFound")
    recursive, expand = (call.query.get(flag) == ["true"] for flag in ("recursive", "expand"))
    return answer([describe_entry(call.repo, commit, path, expand) for path in paths_in(commit, folder, recursive)])


@endpoint("POST", "/api/{repo}/paths-info/{revision}", "read")
def paths_info(call: Call) -> Reply:
    commit, form = call.commit, parse_qs(call.body.decode())
    known = [path for path in form.get("paths", []) if commit.below(path)]
    return answer([describe_entry(call.repo, commit, path, form.get("expand") == ["true"]) for path in known])


def paths_in(commit: Commit, folder: str, recursive: bool) -> list[str]:
    """The files and folders in a folder (the root is ""); a file's own path, if `folder` is one."""
    if folder in commit.tree:
        return [folder]
    prefix, found = f"{folder}/" if folder else "", set()
    for path in commit.tree:
        if path.startswith(prefix):
            parts = path.removeprefix(prefix).split("/")
            found |= {prefix + "/".join(parts[:depth]) for depth in range(1, len(parts) + 1 if recursive else 2)}
    return sorted(found)


def describe_entry(repo: Repo, commit: Commit, path: str, expand: bool) -> dict:
    if file := commit.tree.get(path):
        entry = {"type": "file", "path": path, "oid": file.oid, "size": file.size}
        entry |= {"lfs": describe_lfs(file)} if file.lfs else {}
    else:
        oids = json.dumps({name: file.oid for name, file in commit.below(path).items()}, sort_keys=True)
        entry = {"type": "directory", "path": path, "oid": hashlib.sha1(oids.encode()).hexdigest(), "size": 0}
    if expand:
        last = repo.last_change(commit, path)
        entry["lastCommit"] = {"id": last.sha, "title": last.title, "date": last.time}
    return entry


@endpoint("GET", "/api/{repo}/commits/{revision}", "read")
def commits(call: Call) -> Reply:
    return answer([
        {"id": c.sha, "title": c.title, "message": c.message, "date": c.time, "authors": [{"user": c.author}]}
        for c in call.repo.history(call.commit)
    ])  # fmt: skip


@endpoint("GET", "/api/{repo}/refs", "read")
def refs(call: Call) -> Reply:
    branches, tags = (
        [{"name": name, "ref": f"refs/{group}/{name}", "targetCommit": sha} for name, sha in found.items()]
        for group, found in ((group, call.repo.refs(group)) for group in ("heads", "tags"))
    )
    return answer({"branches": branches, "tags": tags, "converts": [], "pullRequests": []})


@endpoint("POST", "/api/{repo}/branch/{name}", "write")
def create_branch(call: Call) -> Reply:
    return create_ref(call, "heads", call.args["name"], call.json.get("startingPoint", "main"))


@endpoint("POST", "/api/{repo}/tag/{revision}", "write")
def create_tag(call: Call) -> Reply:
    return create_ref(call, "tags", call.json["tag"], call.args["revision"])


def create_ref(call: Call, group: Literal["heads", "tags"], name: str, revision: str) -> Reply:
    with call.hub.lock:
        if name in call.repo.refs(group):
            raise HubError(409, f"Reference already exists: refs/{group}/{name}")
        call.repo.set_ref(group, name, call.repo.resolve(revision).sha)
    return answer({})


@endpoint("DELETE", "/api/{repo}/branch/{name}", "write")
def delete_branch(call: Call) -> Reply:
    if call.args["name"] == "main":
        raise HubError(403, "The main branch cannot be deleted")
    with call.hub.lock:
        call.repo.delete_ref("heads", call.args["name"])
    return answer({})


@endpoint("DELETE", "/api/{repo}/tag/{name}", "write")
def delete_tag(call: Call) -> Reply:
    with call.hub.lock:
        call.repo.delete_ref("tags", call.args["name"])
    return answer({})


@endpoint("POST", "/api/{repo}/preupload/{revision}", "write")
def preupload(call: Call) -> Reply:
    tree = call.commit.tree
    return answer({"files": [upload_plan(tree.get(file["path"]), **file) for file in call.json["files"]]})


def upload_plan(known: File | None, path: str, sample: str, size: int) -> dict:
    """Which way a file goes up, and by `oid` what is there already: the client leaves out files that did not change."""
    is_lfs = path.endswith(LFS_SUFFIXES) or size > LFS_SIZE or b"\0" in base64.b64decode(sample)
    oid = known and (known.sha256 if known.lfs else known.oid)
    return {"path": path, "uploadMode": "lfs" if is_lfs else "regular", "shouldIgnore": False, "oid": oid}


@endpoint("POST", "/{home}.git/info/lfs/objects/batch", "write")
def lfs_batch(call: Call) -> Reply:
    return answer({"transfer": "basic", "objects": [lfs_actions(call, **wanted) for wanted in call.json["objects"]]})


def lfs_actions(call: Call, oid: str, size: int) -> dict:
    """What is left to do for an object: nothing if it is here, otherwise one PUT, or one for each of its parts."""
    if call.hub.blobs.has(oid, size):
        return {"oid": oid, "size": size}
    upload = {"href": call.url(f"lfs/{oid}")}
    if size > call.hub.part_size:
        parts = range(1, -(-size // call.hub.part_size) + 1)
        upload["header"] = {str(part): call.url(f"lfs/{oid}/{part}") for part in parts}
        upload["header"]["chunk_size"] = str(call.hub.part_size)
    verify = {"href": call.url(f"{call.repo.url}.git/info/lfs/objects/verify")}
    return {"oid": oid, "size": size, "actions": {"upload": upload, "verify": verify}}


# Open, like the signed addresses of the Hub's own storage: the client sends no token to the next three.


@endpoint("PUT", "/lfs/{oid}", "open")
def lfs_put(call: Call) -> Reply:
    return store_object(call, call.body)


@endpoint("PUT", "/lfs/{oid}/{part}", "open")
def lfs_put_part(call: Call) -> Reply:
    write_atomically(call.hub.parts / call.args["oid"] / call.args["part"], call.body)
    return Reply(headers={"ETag": f'"{hashlib.md5(call.body).hexdigest()}"'})


@endpoint("POST", "/lfs/{oid}", "open")
def lfs_complete(call: Call) -> Reply:
    folder = call.hub.parts / call.args["oid"]
    if folder.exists():  # else the client lost our answer and asks again
        store_object(call, b"".join((folder / str(part["partNumber"])).read_bytes() for part in call.json["parts"]))
        shutil.rmtree(folder)
    return answer({})


def store_object(call: Call, data: bytes) -> Reply:
    if hashlib.sha256(data).hexdigest() != call.args["oid"]:
        raise HubError(400, "The content does not have the sha256 that was announced")
    call.hub.blobs.add(data)
    return answer({})


@endpoint("POST", "/{home}.git/info/lfs/objects/verify", "write")
def lfs_verify(call: Call) -> Reply:
    if not call.hub.blobs.has(call.json["oid"], call.json["size"]):
        raise HubError(404, "The object was not uploaded")
    return answer({})


@endpoint("POST", "/api/{repo}/commit/{revision}", "write")
def commit(call: Call) -> Reply:
    if "create_pr" in call.query:
        raise HubError(400, "This server has no pull requests")
    header, *operations = [json.loads(line) for line in call.body.splitlines()]
    title, message = header["value"]["summary"], header["value"].get("description", "")
    branch, repo = call.args["revision"], call.repo
    with call.hub.lock:
        if branch not in repo.refs("heads"):
            raise HubError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        head = repo.resolve(branch)
        if not head.sha.startswith(header["value"].get("parentCommit", "")):
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        tree = dict(head.tree)
        for operation in operations:
            OPERATIONS[operation["key"]](call.hub.blobs, tree, **operation["value"])
        sha = repo.add_commit(branch, tree, call.account.name, title, message)
    return answer({"success": True, "commitOid": sha, "commitUrl": call.url(f"{repo.url}/commit/{sha}")})


def regular_file(blobs: Blobs, data: bytes) -> File:
    return File(git_oid(data), len(data), blobs.add(data), lfs=False)


def add_regular(blobs: Blobs, tree: Tree, path: str, content: str, encoding: Literal["base64"]) -> None:
    tree[path] = regular_file(blobs, base64.b64decode(content))


def add_lfs(blobs: Blobs, tree: Tree, path: str, oid: str, algo: Literal["sha256"], size: int | None = None) -> None:
    """`size` is missing where the client copies a file."""
    blob = blobs.path(oid)
    if not blob.exists() or size not in (None, blob.stat().st_size):
        raise HubError(400, f"LFS object {oid} of {path} was never uploaded")
    size = blob.stat().st_size
    tree[path] = File(git_oid(lfs_pointer(oid, size)), size, oid, lfs=True)


def delete_file(blobs: Blobs, tree: Tree, path: str) -> None:
    if tree.pop(path, None) is None:
        raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")


def delete_folder(blobs: Blobs, tree: Tree, path: str) -> None:
    inside = [name for name in tree if name.startswith(f"{path.rstrip('/')}/")]
    if not inside:
        raise HubError(404, f"A folder with this name doesn't exist: {path}", "EntryNotFound")
    for name in inside:
        del tree[name]


OPERATIONS = {"file": add_regular, "lfsFile": add_lfs, "deletedFile": delete_file, "deletedFolder": delete_folder}


@endpoint("POST", "/api/collections", "token")
def create_collection(call: Call) -> Reply:
    namespace = call.json["namespace"]
    call.check_writer(namespace)
    slug = f"{namespace}/{call.json['title'].lower()}-{hashlib.sha1(call.json['title'].encode()).hexdigest()[:24]}"
    if (call.hub.folder / "collections" / f"{quote(slug, safe='')}.json").exists():
        return answer({"error": "This collection already exists", "slug": slug}, 409)
    return store_collection(call, slug, {"title": call.json["title"], "private": call.json["private"], "items": []})


@endpoint("GET", "/api/collections/{repo_slug}", "token")
def get_collection(call: Call) -> Reply:
    return store_collection(call, call.args["id"], call.hub.collections()[call.args["id"]])


@endpoint("POST", "/api/collections/{repo_slug}/items", "token")
def add_collection_item(call: Call) -> Reply:
    slug, item = call.args["id"], call.json["item"]
    call.check_writer(slug.partition("/")[0])
    collection = call.hub.collections()[slug]
    if item["id"] in [known["id"] for known in collection["items"]]:
        raise HubError(409, "The item is in the collection already")
    collection["items"].append(item | {"_id": item["id"], "position": len(collection["items"])})
    return store_collection(call, slug, collection)


def store_collection(call: Call, slug: str, facts: dict) -> Reply:
    write_atomically(call.hub.folder / "collections" / f"{quote(slug, safe='')}.json", json.dumps(facts).encode())
    owner = {"name": slug.partition("/")[0]}
    more = {"slug": slug, "owner": owner, "lastUpdated": now(), "position": 0, "theme": "orange", "upvotes": 0}
    return answer(facts | more)


@endpoint("GET", "/{home}/resolve/{revision}/{path}", "read")
def resolve(call: Call) -> Reply:
    commit = call.commit
    file = commit.tree.get(call.args["path"])
    if not file:  # with the commit, by which the client remembers that there is no such file
        return refuse(HubError(404, "Entry not found", "EntryNotFound"), **{"X-Repo-Commit": commit.sha})
    headers = {"X-Repo-Commit": commit.sha, "ETag": f'"{file.oid}"', "Accept-Ranges": "bytes"}
    if file.lfs:
        headers |= {"X-Linked-ETag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
    wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", call.headers.get("Range", ""))
    if not wanted:
        return Reply(200, call.hub.blobs.read(file), headers)
    start, end = byte_range(*wanted.groups(), file.size)
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
    return Reply(206, call.hub.blobs.read(file, start, end), headers)


@endpoint("HEAD", "/{home}/resolve/{revision}/{path}", "read")
def resolve_head(call: Call) -> Reply:
    return resolve(call)


def byte_range(first: str, last: str, size: int) -> tuple[int, int]:
    """The half-open range that `bytes=first-last` asks for; `bytes=-n` asks for the last n bytes."""
    start = int(first) if first else max(size - int(last), 0)
    if start >= size:
        raise HubError(416, f"Nothing at byte {start} of {size}")
    return start, min(int(last) + 1, size) if first and last else size


@endpoint("GET", "/api/agent-harnesses", "open")
@endpoint("HEAD", "/api/telemetry/{path}", "open")
def telemetry(call: Call) -> Reply:
    return answer({})


def unknown(call: Call) -> Reply:
    raise HubError(404, "Not an endpoint of this server")


def find_route(method: str, path: str) -> tuple[Route, dict[str, str]]:
    for route in ROUTES:
        if route.method == method and (match := route.pattern.fullmatch(path)):
            return route, {name: part and unquote(part) for name, part in match.groupdict().items()}
    return Route(method, re.compile(".*"), "open", unknown), {}


# The server.


class Handler(BaseHTTPRequestHandler):
    """Speaks HTTP/1.1 with keep-alive, and does wrong where a fault says so."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # an answer is two writes, the second must not wait for an acknowledgement

    def handle_request(self):
        hub, url, body = self.server.hub, urlsplit(self.path), self.read_body()
        route, args = find_route(self.command, url.path)
        request = Request(self.command, url.path, route.function.__name__, self.headers.get("Range"))
        fault = hub.log(request)
        if request.fault == "reset":
            return self.reset()
        if request.fault == "slow":
            time.sleep(fault.seconds)
        if request.fault == "stall":
            self.server.closing.wait()  # until the server ends
            return self.reset()
        if request.fault == "status":
            wait = {} if fault.retry_after is None else {"Retry-After": f"{fault.retry_after:g}"}
            reply = refuse(HubError(fault.status, "Injected fault"), **wait)
        elif request.fault == "html":
            reply = Reply(body=b"<!doctype html><title>Log in</title>", headers={"Content-Type": "text/html"})
        else:
            reply = route.reply(Call(hub, args, parse_qs(url.query), self.headers, body))
        if request.fault == "change":
            reply = fault.change(reply)
        if request.fault == "reset_after":
            return self.reset()
        request.status = reply.status
        self.send(reply, is_cut=request.fault in ("reset_mid_body", "truncate"))
        if request.fault == "reset_mid_body":
            self.reset()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            size = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(size)
            if len(body) < size:
                raise ConnectionResetError("the client ended in the middle of a request")
            return body
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()  # the end of line after each chunk
        self.rfile.readline()
        return b"".join(chunks)

    def send(self, reply: Reply, is_cut: bool) -> None:
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body[: len(reply.body) // 2] if is_cut else reply.body)
        self.close_connection |= is_cut

    def reset(self) -> None:
        """Closes with RST: that takes a lingering time of zero, and that nothing else holds the socket."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()
        self.connection.close()

    def setup(self):
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self):
        self.server.connections.discard(self.connection)
        super().finish()

    def log_message(self, format, *args):
        LOG.info(format, *args)


class HttpServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: "HubServer", port: int):
        super().__init__(("127.0.0.1", port), Handler)
        self.hub, self.connections, self.closing = hub, set(), threading.Event()

    def handle_error(self, request, client_address):
        LOG.info("a client went away", exc_info=True)


class HubServer:
    """The Hub on a folder, served inside a `with` block.

    `tokens` says whom each token stands for; LFS objects of more than `part_size` bytes go up in parts of that size.
    `requests` is every request in the order of arrival, `unknown_requests` those to no known endpoint; `errors` is what
    went wrong in the server itself, for which a client got a 500.
    """

    def __init__(self, folder: Path, tokens: dict[str, Account], port: int = 0, part_size: int = 64 * 2**20):
        self.folder, self.tokens, self.part_size = Path(folder), tokens, part_size
        self.blobs, self.parts = Blobs(self.folder / "blobs"), self.folder / "parts"
        self.lock = threading.Lock()  # held by whoever changes a repository, and around the log
        self.requests: list[Request] = []
        self.errors: list[Exception] = []
        self._faults: list[Fault] = []
        self._server = HttpServer(self, port)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._server.closing.set()
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self._server.connections):  # kept alive by clients, who shall notice that we are gone
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def inject(self, fault: Fault) -> None:
        with self.lock:
            self._faults.append(fault)

    def log(self, request: Request) -> Fault | None:
        """Notes a request and the fault that strikes it: the first injected, where several do."""
        with self.lock:
            self.requests.append(request)
            struck = [fault for fault in self._faults if fault.strikes(request)]
        request.fault = struck[0].kind if struck else None
        return struck[0] if struck else None

    @property
    def unknown_requests(self) -> list[Request]:
        return [request for request in self.requests if request.kind == "unknown"]

    def count(self, kind: str) -> int:
        return sum(request.kind == kind for request in self.requests)

    def exists(self, repo_type: str, repo_id: str) -> bool:
        return Repo(self.folder, f"{repo_type}s", repo_id).settings is not None

    def collections(self) -> dict[str, dict]:
        """Title, `private` and items of every collection, by slug."""
        paths = (self.folder / "collections").glob("*.json")
        return {unquote(path.stem): json.loads(path.read_bytes()) for path in paths}

    def head(self, repo_type: str, repo_id: str, revision: str = "main") -> str:
        return self._commit(repo_type, repo_id, revision).sha

    def files(self, repo_type: str, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        tree = self._commit(repo_type, repo_id, revision).tree
        return {path: self.blobs.read(file) for path, file in tree.items()}

    def _commit(self, repo_type: str, repo_id: str, revision: str) -> Commit:
        return Repo(self.folder, f"{repo_type}s", repo_id).resolve(revision)

    def environment(self, home: Path, token: str | None = None) -> dict[str, str]:
        """The environment of a process that knows this Hub and no other, by default with the first of the tokens."""
        others = ("HF_", "HUGGINGFACE_", "TRANSFORMERS_")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(others)}
        token = token or next(iter(self.tokens))
        return inherited | {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_TOKEN": token,
                            "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the repositories are kept")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--user", default="me", help="the one user, whose token is hf_local")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with HubServer(options.folder, {"hf_local": Account(options.user)}, options.port) as hub:
        print(f"export HF_ENDPOINT={hub.endpoint} HF_HUB_DISABLE_XET=1 HF_TOKEN=hf_local", flush=True)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
