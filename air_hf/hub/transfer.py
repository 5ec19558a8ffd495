"""Folders to the Hub in one commit and back. Every push runs in a process of its own, which can be ended at any time.

A Hub that accepts a connection and never answers blocks the client's threads, and a process cannot end before they do.
Run as a program, this file is that process: it reads one call from standard input, writes its outcome to standard
output, and ends when standard input is closed, which it is however the process that started it ends.
"""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import disable_progress_bars, validate_repo_id

TIMEOUT = 600.0  # seconds
# Files of an earlier push that a new one removes if it does not bring them again.
_OURS = [
    "*_air.py",
    "data/*",
    "evaluation.json",
    "images/*",
    "models/*",
    "solve_config.json",
    "tokenizer*.json",
    "training.json",
    ".eval_results/*",
    "*.safetensors",
    "*.safetensors.index.json",
]
_PAGE = ["*.css", "*.html", "*.js", "runtime/*"]  # and those of a Space
# What the client and the libraries above it raise where the Hub, or what answers in its place, says something else than
# they expect: they look into an answer without looking at it first.
READ_ERRORS = (OSError, ValueError, RuntimeError, LookupError, AttributeError, TypeError, httpx2.HTTPError)
_WAITS = (1, 4, 15)  # seconds before another try; the client itself repeats uploads, but neither commits nor creations
_COMMIT = re.compile(r"[0-9a-f]{40}")
LONGEST_REASON = 300  # characters
_ADVICE = {
    401: "the Hub does not know the token: see `hf auth login`",
    403: "the token may not write there: it needs the role write, and its owner the right to write to that repository",
    404: "there is no such repository or branch, or the token may not see it",
}


class PublishError(ValueError):
    """A push that did not happen; the message says what the repository holds now and what may help."""


def push_folder(
    folder: str | Path,
    repository: str,
    repo_type: str,
    *,
    private: bool = True,
    revision: str | None = None,
    token: str | None = None,
    message: str | None = None,
    timeout: float = TIMEOUT,
    stopped: Callable[[], bool] = lambda: False,
) -> str:
    """Publishes a folder in one commit, so that the repository is at its old or its new state, never between.

    Large files travel first and are not sent again by a second try, which is how a push that failed goes on.

    Args:
        folder (`str` or `Path`): what the repository shall hold; files of an earlier push that are gone are removed.
        repository (`str`): `ORG/NAME`, or `NAME` for one of the token's owner.
        repo_type (`str`): "model", "dataset" or "space", a static one.
        private (`bool`): of a repository that is made now; an existing one stays as it is.
        revision (`str`, *optional*): the branch; made if it does not exist.
        token (`str`, *optional*): from the usual places if None.
        message (`str`, *optional*): the commit's.
        timeout (`float`): seconds after which the push is given up.
        stopped (`Callable[[], bool]`): asked several times a second; the push is given up if it is true.

    Returns:
        the commit's SHA.

    Raises:
        PublishError: no folder, a bad name, no right to write, or a Hub that cannot be reached, fails or is silent.
    """
    if not Path(folder).is_dir():
        raise PublishError(f"{folder} is no folder; expected a folder to publish")
    arguments = {
        "folder": str(folder), "repository": repository, "repo_type": repo_type, "private": private,
        "revision": revision, "token": token, "message": message or f"air-hf: publish {Path(folder).name}",
        "waits": _WAITS,
    }  # fmt: skip
    return call("push", arguments, timeout, stopped)["commit"]


def resolve_repository(
    name: str, token: str | None = None, timeout: float = TIMEOUT, stopped: Callable[[], bool] = lambda: False
) -> str:
    """`ORG/NAME` of a repository; a bare `NAME` is one of the token's owner.

    Raises:
        PublishError: no name of a repository, or the Hub does not say who the owner is.
    """
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise PublishError(
            f"{name!r} is no name of a repository; expected ORG/NAME: {describe_error(error)}"
        ) from error
    return name if "/" in name else f"{find_owner(name, token, timeout, stopped)}/{name}"


def find_owner(
    repository: str, token: str | None = None, timeout: float = TIMEOUT, stopped: Callable[[], bool] = lambda: False
) -> str:
    """The account of the token; `repository` is what a message is about.

    Raises:
        PublishError: the Hub does not know the token, or does not answer.
    """
    return call("owner", {"repository": repository, "token": token}, timeout, stopped)["owner"]


def fetch_folder(
    repository: str,
    repo_type: str,
    revision: str | None = None,
    files: list[str] | None = None,
    cache_dir: str | None = None,
) -> Path:
    """Downloads a repository, or some of its files, and returns the folder.

    Raises:
        PublishError: no such repository, or no right to read it.
    """
    try:
        place = {"repo_type": repo_type, "revision": revision, "cache_dir": cache_dir}
        return Path(snapshot_download(repository, allow_patterns=files, **place))
    except READ_ERRORS as error:
        raise PublishError(f"{repository}: cannot be read from the Hub ({describe_error(error)})") from error


def describe_error(error: BaseException) -> str:
    """An error of the client on one line: what it is about, without the advice that follows it."""
    if type(error) is RuntimeError and error.__cause__ is not None:  # says which upload failed; its cause says why
        return f"{_first_line(error)}: {describe_error(error.__cause__)}"
    if silent := _find_silence(error):
        return str(silent)
    if isinstance(error, AttributeError | TypeError):
        return f"the Hub's answer is of another form than expected: {_first_line(error)}"
    if isinstance(error, json.JSONDecodeError):
        return "the Hub's answer is no JSON, as if something else answered in its place"
    if isinstance(error, KeyError):
        return f"the Hub's answer lacks {error}"
    return _first_line(error) or type(error).__name__


def _find_silence(error: BaseException | None) -> OfflineModeIsEnabled | None:
    """That the Hub was silent, or was not to be asked, which the libraries wrap in what they could not do then."""
    while error is not None and not isinstance(error, OfflineModeIsEnabled):
        error = error.__cause__ or error.__context__
    return error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = " ".join(lines[:2]) if lines and lines[0].endswith(":") else "".join(lines[:1])
    return first[:LONGEST_REASON]


def call(name: str, arguments: dict, timeout: float, stopped: Callable[[], bool] = lambda: False) -> dict:
    """Runs one of `_CALLS` in another process, and returns its outcome.

    Raises:
        PublishError: it failed, took more than `timeout` seconds, or `stopped` became true.
    """
    # -P: the files beside this one are no modules of that process.
    with subprocess.Popen([sys.executable, "-P", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            process.stdin.write(json.dumps({"call": name} | arguments).encode() + b"\n")
            process.stdin.flush()  # not closed: that is how the process learns of our end
            end = time.monotonic() + timeout
            while process.poll() is None and not stopped() and time.monotonic() < end:
                time.sleep(0.05)
        finally:
            process.kill()  # where it has ended, this does nothing
            status = process.wait()
        answer = process.stdout.read()
    if status == 0:
        outcome = json.loads(answer)
    elif stopped():
        outcome = {"error": "it was given up"}
    else:
        late = time.monotonic() >= end
        reason = f"no end after {timeout:g} seconds" if late else f"its process ended with status {status}"
        outcome = {"error": reason, "may_pass": True}
    return checked(outcome, name, arguments["repository"])


def checked(outcome: dict, name: str, repository: str) -> dict:
    """An outcome of one of `_CALLS` by [`carry_out`].

    Raises:
        PublishError: it failed.
    """
    if "error" not in outcome:
        return outcome
    advice = _ADVICE.get(outcome.get("status"))
    if advice is None and outcome.get("may_pass"):
        advice = "another try sends only what is missing"
    failure = f"{repository}: {_FAILURES[name].format(outcome['error'])}"
    raise PublishError(f"{failure}; {advice}" if advice else failure)


def _push(
    repository: str, repo_type: str, folder: str, private: bool, revision: str | None, token: str | None, message: str,
    waits: list[float],
) -> dict:  # fmt: skip
    api = HfApi(token=token)
    for wait in (*waits, None):
        try:
            # The name as the Hub has it: of a bare one, the owner is in its answer.
            sdk = "static" if repo_type == "space" else None
            name = api.create_repo(
                repository, repo_type=repo_type, private=private, exist_ok=True, space_sdk=sdk
            ).repo_id
            if revision is not None:
                api.create_branch(name, branch=revision, repo_type=repo_type, exist_ok=True)
            commit = api.upload_folder(
                folder_path=folder,
                repo_id=name,
                repo_type=repo_type,
                revision=revision,
                commit_message=message,
                delete_patterns=_OURS + (_PAGE if repo_type == "space" else []),
            )
            if not (isinstance(commit.oid, str) and _COMMIT.fullmatch(commit.oid)):
                raise KeyError("commitOid")  # what is there is no commit's, and would be told as one
        except Exception as error:
            if wait is None or not _may_pass(error):
                raise
            time.sleep(wait)
        else:
            return {"commit": commit.oid}


def _owner(repository: str, token: str | None) -> dict:
    return {"owner": HfApi(token=token).whoami()["name"]}


def _collect(repository: str, items: list[str], private: bool, token: str | None) -> dict:
    api = HfApi(token=token)
    namespace, title = repository.split("/")
    collection = api.create_collection(title, namespace=namespace, private=private, exists_ok=True)
    for item in items:
        api.add_collection_item(collection.slug, item, "model", exists_ok=True)
    return {"url": collection.url}


_CALLS = {"push": _push, "owner": _owner, "collect": _collect}
_FAILURES = {
    "push": "the push failed ({}); the repository holds what it held before, or all of the push",
    "owner": "the Hub does not say whose token this is ({})",
    "collect": "the collection is not made, or not all of it ({})",
}


def _may_pass(error: Exception) -> bool:
    """Whether another try may succeed: the Hub is busy or failing, the connection broke, or somebody else committed."""
    cause = _cause(error)
    if isinstance(cause, HfHubHTTPError):
        status = cause.response.status_code
        return status in (408, 409, 412, 429) or status >= 500 or _is_lost_upload(error)
    return isinstance(cause, (httpx2.TransportError, json.JSONDecodeError, KeyError))


def _is_lost_upload(error: Exception) -> bool:
    """Whether the Hub does not have a file that was sent: something else had taken it in its place."""
    return _cause(error) is not error and getattr(getattr(_cause(error), "response", None), "status_code", None) == 404


def _cause(error: Exception) -> BaseException:
    """What happened to an upload, which the client wraps in a RuntimeError."""
    return error.__cause__ if type(error) is RuntimeError and error.__cause__ is not None else error


def carry_out(name: str, arguments: dict) -> dict:
    """One of `_CALLS`, here; what it gives, or `error`, `status` and `may_pass`."""
    try:
        return _CALLS[name](**arguments)
    except Exception as error:  # whatever it is, it is reported by the process that waits for us
        response = getattr(_cause(error), "response", None)
        return {
            "error": describe_error(error),
            "status": None if _is_lost_upload(error) else getattr(response, "status_code", None),
            "may_pass": _may_pass(error),
        }


def _main() -> None:
    arguments = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if not sys.stderr.isatty():
        disable_progress_bars()
    print(json.dumps(carry_out(arguments.pop("call"), arguments)), flush=True)
    # A thread of the client that still waits for an answer must not keep this process.
    os._exit(0)


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    _main()
