"""The Hub: checkpoints loaded from a folder or a repository, folders published in one commit."""

import json
import re
import time
from pathlib import Path

import httpx2
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from transformers import AutoModel
from transformers.utils import cached_file

from air_hf.modeling import AIRForPuzzleSolving

TRAINING_FACTS = "training.json"
EVALUATION = "evaluation.json"
# Files of an earlier push that a new one removes if it does not bring them again.
_OURS = ["data/*", "images/*", "models/*", ".eval_results/*", "*.safetensors", "*.safetensors.index.json"]
# What the client raises; a RuntimeError says which file of an upload failed, its cause says why; a ValueError is a card
# whose metadata the Hub does not accept.
_HUB_ERRORS = (HfHubHTTPError, httpx2.HTTPError, RuntimeError, ValueError, OSError)
_WAITS = (1, 4, 15)  # seconds before another try; the client itself repeats uploads, but neither commits nor creations
_REPO_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


class CheckpointError(ValueError):
    """A checkpoint that is missing, incomplete or of another model or run; the message says which and where."""


def load_model(source: str | Path, **kwargs) -> AIRForPuzzleSolving:
    """Loads a checkpoint in evaluation mode, as `AutoModel.from_pretrained` does, with errors that say what is missing.

    Args:
        source (`str` or `Path`): a checkpoint folder, or a repository on the Hub.
        kwargs: passed to `from_pretrained`, e.g. `dtype`, `revision`, `attn_implementation`.

    Raises:
        CheckpointError: no such folder or repository, or a folder without a checkpoint of this package.
    """
    folder = Path(source)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise CheckpointError(f"{folder} holds no checkpoint: config.json is missing")
    elif not _REPO_ID.fullmatch(str(source)):
        raise CheckpointError(f"checkpoint folder {source} does not exist")
    try:
        model = AutoModel.from_pretrained(source, **kwargs)
    except OSError as error:
        raise CheckpointError(
            f"there is no checkpoint folder {source}, and no repository of that name within reach: {error}"
        ) from error
    if not isinstance(model, AIRForPuzzleSolving):
        raise CheckpointError(f"{source} is a {type(model).__name__}, not an AIRForPuzzleSolving")
    return model.eval()


def training_facts(source: str | Path, revision: str | None = None) -> dict:
    """`step` and `ema` of a checkpoint's weights, as recorded beside them; empty where nothing is."""
    path = cached_file(source, TRAINING_FACTS, revision=revision, _raise_exceptions_for_missing_entries=False)
    return {} if path is None else json.loads(Path(path).read_text(encoding="utf-8"))


class PublishError(ValueError):
    """A push that did not happen; the message says what the repository holds now."""


def push_folder(
    folder: str | Path,
    repository: str,
    repo_type: str,
    *,
    private: bool = True,
    revision: str | None = None,
    token: str | None = None,
    message: str | None = None,
) -> str:
    """Publishes a folder in one commit, so that the repository is at its old or its new state, never between.

    Large files travel first and are not sent again by a second try, which is how a push that failed goes on.

    Args:
        folder (`str` or `Path`): what the repository shall hold; files of an earlier push that are gone are removed.
        repository (`str`): `ORG/NAME`.
        repo_type (`str`): "model", "dataset" or "space" (a static one).
        private (`bool`): of a repository that is made now; an existing one stays as it is.
        revision (`str`, *optional*): the branch; made if it does not exist.
        token (`str`, *optional*): from the usual places if None.
        message (`str`, *optional*): the commit's.

    Returns:
        the commit's SHA.

    Raises:
        PublishError: no folder, a bad name, no right to write, or a Hub that cannot be reached or fails.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise PublishError(f"{folder} does not exist; expected a folder to publish")
    api = HfApi(token=token)
    for wait in (*_WAITS, None):
        try:
            return _push(api, folder, repository, repo_type, private, revision, message)
        except HFValidationError as error:
            raise PublishError(f"{repository!r} is no name of a repository; expected ORG/NAME: {error}") from error
        except _HUB_ERRORS as error:
            if wait is None or not _may_pass(error):
                raise PublishError(
                    f"{repository}: the push failed ({error}{_cause(error)}). {folder} is untouched, and the "
                    "repository holds what it held before, or all of the push; the same command again completes it"
                ) from error
            time.sleep(wait)


def _push(api: HfApi, folder: Path, repository: str, repo_type: str, private: bool, revision, message) -> str:
    if not api.repo_exists(repository, repo_type=repo_type):
        sdk = "static" if repo_type == "space" else None
        api.create_repo(repository, repo_type=repo_type, private=private, space_sdk=sdk)
    if revision is not None:
        api.create_branch(repository, branch=revision, repo_type=repo_type, exist_ok=True)
    commit = api.upload_folder(
        folder_path=folder,
        repo_id=repository,
        repo_type=repo_type,
        revision=revision,
        commit_message=message or f"air-hf: publish {folder.name}",
        delete_patterns=_OURS,
    )
    return commit.oid


def _may_pass(error: Exception) -> bool:
    """Whether another try may succeed: the Hub is busy or failing, the connection broke, or somebody else committed."""
    cause = error.__cause__ if type(error) is RuntimeError else error  # the client wraps what happened to an upload
    if isinstance(cause, HfHubHTTPError):
        return cause.response.status_code in (408, 409, 412, 429) or cause.response.status_code >= 500
    return isinstance(cause, httpx2.TransportError)


def _cause(error: Exception) -> str:
    return f": {error.__cause__}" if type(error) is RuntimeError else ""


def fetch_folder(repository: str, repo_type: str, revision: str | None = None, files: list[str] | None = None) -> Path:
    """Downloads a repository, or some of its files, and returns the folder.

    Raises:
        PublishError: no such repository, or no right to read it.
    """
    try:
        return Path(snapshot_download(repository, repo_type=repo_type, revision=revision, allow_patterns=files))
    except (HFValidationError, *_HUB_ERRORS) as error:
        raise PublishError(f"{repository}: cannot be read from the Hub ({error}{_cause(error)})") from error
