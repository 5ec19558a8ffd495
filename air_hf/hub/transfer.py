"""Folders to the Hub in one commit and back. Every push runs in a process of its own, which can be ended at any time.

A Hub that accepts a connection and never answers blocks the client's threads, and a process cannot end before they do.
Run as a program, this file is that process: it reads one call from standard input, writes its outcome to standard
output, and ends when standard input is closed, which it is however the process that started it ends.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import disable_progress_bars

TIMEOUT = 600.0  # seconds
# Files of an earlier push that a new one removes if it does not bring them again.
_OURS = ["data/*", "images/*", ".eval_results/*", "*.safetensors", "*.safetensors.index.json"]
_WAITS = (1, 4, 15)  # seconds before another try; the client itself repeats uploads, but neither commits nor creations
_LONGEST_REASON = 300  # characters
_ADVICE = {
    401: "the Hub does not know the token: see `hf auth login`",
    403: "the token may not write there: it needs the role write, and its owner the right to write to that repository",
    404: "there is no such repository or branch, or the token may not see it",
}


class PublishError(ValueError):
    """A push that did not happen; the message says what the repository holds now and what may help."""


class Push:
    """A push under way, in a process of its own; see [`push_folder`] for the arguments."""

    def __init__(
        self,
        folder: str | Path,
        repository: str,
        repo_type: str,
        *,
        private: bool = True,
        revision: str | None = None,
        token: str | None = None,
        message: str | None = None,
        timeout: float = TIMEOUT,
    ):
        if not Path(folder).is_dir():
            raise PublishError(f"{folder} is no folder; expected a folder to publish")
        self.repository, self.timeout = repository, timeout
        self._call = _Call(
            "push", folder=str(folder), repository=repository, repo_type=repo_type, private=private, revision=revision,
            token=token, message=message or f"air-hf: publish {Path(folder).name}", waits=_WAITS,
        )  # fmt: skip

    def wait(self, stopped: Callable[[], bool] = lambda: False) -> str:
        """The commit's SHA, when the push is over.

        Args:
            stopped (`Callable[[], bool]`, *optional*): asked several times a second; the push is given up if it is true.

        Raises:
            PublishError: it failed, took longer than `timeout`, or was given up.
        """
        return _finish(self._call, self.repository, self.timeout, stopped)["commit"]

    def kill(self) -> None:
        """Ends the push at once, wherever it is; `wait` then raises."""
        self._call.kill()


def push_folder(folder: str | Path, repository: str, repo_type: str, **options) -> str:
    """Publishes a folder in one commit, so that the repository is at its old or its new state, never between.

    Large files travel first and are not sent again by a second try, which is how a push that failed goes on.

    Args:
        folder (`str` or `Path`): what the repository shall hold; files of an earlier push that are gone are removed.
        repository (`str`): `ORG/NAME`, or `NAME` for one of the token's owner.
        repo_type (`str`): "model" or "dataset".
        private (`bool`, *optional*): of a repository that is made now (default True); another one stays as it is.
        revision (`str`, *optional*): the branch; made if it does not exist.
        token (`str`, *optional*): from the usual places if None.
        message (`str`, *optional*): the commit's.
        timeout (`float`, *optional*): seconds after which the push is given up (default 600).

    Returns:
        the commit's SHA.

    Raises:
        PublishError: no folder, a bad name, no right to write, or a Hub that cannot be reached, fails or is silent.
    """
    return Push(folder, repository, repo_type, **options).wait()


def resolve_repository(name: str, token: str | None = None, timeout: float = TIMEOUT) -> str:
    """`ORG/NAME` of a repository; a bare `NAME` is one of the token's owner.

    Raises:
        PublishError: the Hub does not say who that is.
    """
    if "/" in name:
        return name
    return _finish(_Call("resolve", repository=name, token=token), name, timeout)["repository"]


def fetch_folder(repository: str, repo_type: str, revision: str | None = None, files: list[str] | None = None) -> Path:
    """Downloads a repository, or some of its files, and returns the folder.

    Raises:
        PublishError: no such repository, or no right to read it.
    """
    try:
        return Path(snapshot_download(repository, repo_type=repo_type, revision=revision, allow_patterns=files))
    except (HFValidationError, HfHubHTTPError, httpx2.HTTPError, RuntimeError, ValueError, OSError) as error:
        raise PublishError(f"{repository}: cannot be read from the Hub ({describe_error(error)})") from error


def describe_error(error: BaseException) -> str:
    """An error of the client on one line: what it is about, without the advice that follows it."""
    if type(error) is RuntimeError and error.__cause__ is not None:  # says which upload failed; its cause says why
        return f"{_first_line(error)}: {describe_error(error.__cause__)}"
    if isinstance(error, json.JSONDecodeError):
        return "the Hub's answer is no JSON, as if something else answered in its place"
    return _first_line(error) or type(error).__name__


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:_LONGEST_REASON] if lines else ""


class _Call:
    """A function of this file in another process."""

    def __init__(self, name: str, **arguments):
        command = [sys.executable, "-P", __file__]  # -P: the files beside this one are no modules of that process
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._process.stdin.write(json.dumps({"call": name} | arguments) + "\n")
        self._process.stdin.flush()  # not closed: that is how the process learns of our end

    def outcome(self, timeout: float, stopped: Callable[[], bool]) -> dict:
        """Its answer; `error` says why there is none."""
        end = time.monotonic() + timeout
        while self._process.poll() is None:
            if stopped() or time.monotonic() > end:
                self.kill()
                return {"error": "given up" if stopped() else f"no end after {timeout:g} seconds", "transient": True}
            time.sleep(0.05)
        answer = self._process.stdout.read()
        self._process.stdin.close()
        status = self._process.returncode
        return json.loads(answer) if status == 0 else {"error": f"it ended with status {status}", "transient": True}

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def _finish(call: _Call, repository: str, timeout: float, stopped: Callable[[], bool] = lambda: False) -> dict:
    outcome = call.outcome(timeout, stopped)
    if "error" not in outcome:
        return outcome
    if outcome.get("invalid"):
        raise PublishError(f"{repository!r} is no name of a repository; expected ORG/NAME: {outcome['error']}")
    advice = _ADVICE.get(outcome.get("status"))
    if advice is None and outcome.get("transient"):
        advice = "the same command again completes it"
    raise PublishError(
        f"{repository}: the push failed ({outcome['error']}); the repository holds what it held before, or all of the "
        f"push{f'; {advice}' if advice else ''}"
    )


def _push(
    repository: str, repo_type: str, folder: str, private: bool, revision: str | None, token: str | None, message: str,
    waits: list[float],
) -> dict:  # fmt: skip
    api = HfApi(token=token)
    for wait in (*waits, None):
        try:
            # The name as the Hub has it: of a bare one, the owner is in its answer.
            name = api.create_repo(repository, repo_type=repo_type, private=private, exist_ok=True).repo_id
            if revision is not None:
                api.create_branch(name, branch=revision, repo_type=repo_type, exist_ok=True)
            commit = api.upload_folder(
                folder_path=folder,
                repo_id=name,
                repo_type=repo_type,
                revision=revision,
                commit_message=message,
                delete_patterns=_OURS,
            )
        except Exception as error:
            if wait is None or not _may_pass(error):
                raise
            time.sleep(wait)
        else:
            return {"commit": commit.oid}


def _resolve(repository: str, token: str | None) -> dict:
    return {"repository": f"{HfApi(token=token).whoami()['name']}/{repository}"}


def _may_pass(error: Exception) -> bool:
    """Whether another try may succeed: the Hub is busy or failing, the connection broke, or somebody else committed."""
    cause = _cause(error)
    if isinstance(cause, HfHubHTTPError):
        return cause.response.status_code in (408, 409, 412, 429) or cause.response.status_code >= 500
    return isinstance(cause, (httpx2.TransportError, json.JSONDecodeError))


def _cause(error: Exception) -> BaseException:
    """What happened to an upload, which the client wraps in a RuntimeError."""
    return error.__cause__ if type(error) is RuntimeError and error.__cause__ is not None else error


def _main() -> None:
    arguments = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        outcome = {"push": _push, "resolve": _resolve}[arguments.pop("call")](**arguments)
    except Exception as error:  # whatever it is, it is reported by the process that waits for us
        response = getattr(_cause(error), "response", None)
        outcome = {
            "error": describe_error(error),
            "status": getattr(response, "status_code", None),
            "transient": _may_pass(error),
            "invalid": isinstance(error, HFValidationError),
        }
    print(json.dumps(outcome), flush=True)
    # A thread of the client that still waits for an answer must not keep this process.
    os._exit(0)


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    _main()
