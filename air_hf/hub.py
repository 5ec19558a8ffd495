"""Loading checkpoints from a folder or the Hub."""

import json
import re
from pathlib import Path

from transformers import AutoModel
from transformers.utils import cached_file

from air_hf.modeling import AIRForPuzzleSolving

TRAINING_FACTS = "training.json"
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
