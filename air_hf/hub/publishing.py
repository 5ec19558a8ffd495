"""Checkpoints on the Hub: one commit with weights, configuration, tokenizer, code and card."""

import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from air_hf.hub.loading import CheckpointError, PublishError, push_folder
from air_hf.hub.model_card import write_model_card

_NOT_PUBLISHED = shutil.ignore_patterns("training_state", "*.part")


def publish_checkpoint(
    checkpoint: str | Path,
    repository: str,
    *,
    private: bool = True,
    revision: str | None = None,
    token: str | None = None,
) -> str:
    """Publishes a checkpoint with a card written for its place; the state of training stays here.

    Args:
        checkpoint (`str` or `Path`): a folder that training, `air-hf convert` or `save_pretrained` made; not changed.
        repository (`str`): `ORG/NAME`.
        private (`bool`): of a repository that is made now; an existing one stays as it is.
        revision (`str`, *optional*): the branch; made if it does not exist.
        token (`str`, *optional*): from the usual places if None.

    Returns:
        the commit's SHA.

    Raises:
        CheckpointError: no checkpoint.
        PublishError: the push failed; see [`push_folder`].
    """
    with tempfile.TemporaryDirectory() as parent:
        staged = stage_checkpoint(checkpoint, Path(parent) / "checkpoint", repository)
        message = f"air-hf: {Path(checkpoint).name}"
        return push_folder(
            staged, repository, "model", private=private, revision=revision, token=token, message=message
        )


def stage_checkpoint(checkpoint: str | Path, folder: Path, repository: str) -> Path:
    """Copies what of a checkpoint is published, and writes its card."""
    checkpoint = Path(checkpoint)
    if not (checkpoint / "config.json").is_file():
        raise CheckpointError(f"{checkpoint} holds no checkpoint: config.json is missing")
    if not any(checkpoint.glob("*.safetensors")):
        raise CheckpointError(f"{checkpoint} holds no weights: expected model.safetensors")
    shutil.copytree(checkpoint, folder, ignore=_NOT_PUBLISHED)
    write_model_card(folder, repository)
    return folder


class BackgroundPublisher:
    """Pushes checkpoints while training goes on; a push that fails is reported, and the next one carries on.

    Args:
        repository (`str`): `ORG/NAME`.
        private (`bool`): of a repository that is made now.
        report (`Callable[[str], None]`): gets a line about every push.
    """

    def __init__(self, repository: str, private: bool, report: Callable[[str], None]):
        self.repository, self.private, self.report = repository, private, report
        self._thread = ThreadPoolExecutor(1, "publish")
        self._running: Future | None = None

    def push(self, checkpoint: str | Path) -> None:
        """Copies the checkpoint and pushes the copy in the background, unless an earlier push is still running."""
        if self._running is None or self._running.done():
            parent = Path(tempfile.mkdtemp())
            staged = stage_checkpoint(checkpoint, parent / "checkpoint", self.repository)
            self._running = self._thread.submit(self._push, staged, parent)

    def _push(self, staged: Path, parent: Path) -> None:
        try:
            commit = push_folder(staged, self.repository, "model", private=self.private, message="air-hf: in training")
            self.report(f"published as {self.repository}, commit {commit[:8]}")
        except PublishError as error:
            self.report(f"not published, training goes on: {error}")
        finally:
            shutil.rmtree(parent, ignore_errors=True)

    def finish(self, checkpoint: str | Path) -> None:
        """Waits for a running push and makes the last one."""
        self._thread.shutdown(wait=True)
        try:
            commit = publish_checkpoint(checkpoint, self.repository, private=self.private)
            self.report(f"published as {self.repository}, commit {commit[:8]}")
        except PublishError as error:
            self.report(f"not published: {error}\nwhen the Hub is back: air-hf publish {checkpoint} {self.repository}")
