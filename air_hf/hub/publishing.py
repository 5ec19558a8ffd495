"""Checkpoints on the Hub: one commit with weights, configuration, tokenizer, code and card."""

import json
import os
import shlex
import shutil
import tempfile
import threading
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from air_hf import modeling
from air_hf.card_options import CardOptions
from air_hf.files import write_text
from air_hf.hub.loading import EVALUATION, TRAINING_FACTS, load_model, load_tokenizer, read_config, read_facts
from air_hf.hub.model_card import write_model_card
from air_hf.hub.records import published_record, read_records
from air_hf.hub.transfer import TIMEOUT, PublishError, find_owner, push_folder, resolve_repository
from air_hf.modeling import AIRConfig, CheckpointError
from air_hf.modeling.solving_air import SOLVE_CONFIG
from air_hf.puzzles import puzzle_of
from air_hf.tokenization import build_tokenizer

# What of a checkpoint's folder is published: what a loader reads, the records, and the card with its picture.
_PUBLISHED = (
    "config.json", "*.safetensors", "*.safetensors.index.json", "*_air.py", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "README.md", "images", TRAINING_FACTS, EVALUATION, SOLVE_CONFIG,
)  # fmt: skip
_PICTURES = ("*.png", "*.gif", "*.jpg", "*.svg")


def _others(folder: str, names: list[str]) -> list[str]:
    """Of a checkpoint's entries those that stay here: the state of training, and whatever else lies there."""
    patterns = _PICTURES if Path(folder).name == "images" else _PUBLISHED
    return [name for name in names if not any(fnmatchcase(name, pattern) for pattern in patterns)]


def publish_checkpoint(
    checkpoint: str | Path,
    repository: str,
    *,
    private: bool = True,
    revision: str | None = None,
    token: str | None = None,
    timeout: float = TIMEOUT,
    stopped: Callable[[], bool] = lambda: False,
    message: str | None = None,
    card: CardOptions | None = None,
    more: str = "",
) -> tuple[str, str]:
    """Publishes a checkpoint with a card written for its place; the state of training stays here.

    Args:
        checkpoint (`str` or `Path`): a folder that training, `air-hf convert` or `save_pretrained` made; not changed.
        repository (`str`): `ORG/NAME`, or `NAME` for one of the token's owner.
        private (`bool`): of a repository that is made now; an existing one stays as it is.
        revision (`str`, *optional*): the branch; made if it does not exist.
        token (`str`, *optional*): from the usual places if None.
        timeout (`float`): seconds after which the push is given up.
        stopped (`Callable[[], bool]`): asked several times a second; the push is given up if it is true.
        message (`str`, *optional*): the commit's.
        card ([`CardOptions`], *optional*): licence, address and tags.
        more (`str`): a further section of the card.

    Returns:
        `ORG/NAME`, and the commit's SHA.

    Raises:
        CheckpointError: no checkpoint, or one that could not be loaded again.
        PublishError: the push failed; see [`push_folder`].
    """
    checkpoint = Path(checkpoint)
    if not checkpoint.is_dir():
        raise CheckpointError(f"checkpoint folder {checkpoint} does not exist")
    read_records(checkpoint)
    model = load_model(checkpoint)  # what cannot be loaded here could not be loaded from the Hub
    if model.config.puzzle is not None:
        load_tokenizer(checkpoint, model.config)
    repository = resolve_repository(repository, token, timeout, stopped)
    with tempfile.TemporaryDirectory(prefix="air-hf-") as parent:
        staged = stage_checkpoint(checkpoint, Path(parent) / "checkpoint", repository, card, more)
        commit = push_folder(
            staged, repository, "model", private=private, revision=revision, token=token, timeout=timeout,
            stopped=stopped, message=message or f"air-hf: {checkpoint.name}",
        )  # fmt: skip
    return repository, commit


def stage_checkpoint(
    checkpoint: Path, folder: Path, repository: str, card: CardOptions | None = None, more: str = ""
) -> Path:
    """Copies what of a checkpoint is published, of its records what may be, and writes tokenizer and card.

    Code is added where it is missing, as in the checkpoints that come with the package.
    """
    shutil.copytree(checkpoint, folder, ignore=_others)
    for file in Path(modeling.__file__).parent.glob("*_air.py"):
        if not (folder / file.name).exists():
            shutil.copy(file, folder)
    puzzle = puzzle_of(read_config(folder))
    if puzzle is not None:
        build_tokenizer(puzzle).save_pretrained(folder)
    for name in (TRAINING_FACTS, EVALUATION, SOLVE_CONFIG):
        if record := read_facts(folder, name):
            write_text(folder / name, json.dumps(published_record(name, record), indent=2) + "\n")
    _drop_what_nothing_reads(folder)
    write_model_card(folder, repository, card, more)
    return folder


def _drop_what_nothing_reads(folder: Path) -> None:
    """Takes entries out of config.json and of the weights' metadata that no loading looks at; they may say anything."""
    config = read_facts(folder, "config.json")
    entries = {*AIRConfig().to_dict(), "auto_map"} - {"_name_or_path"}
    known = {name: value for name, value in config.items() if name in entries}
    if known != config:
        write_text(folder / "config.json", json.dumps(known, indent=2) + "\n")
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        if metadata != {"format": "pt"}:
            save_file(load_file(path), path, metadata={"format": "pt"})


def publish_command(
    checkpoint: str | Path, repository: str, *, private: bool, revision: str | None, timeout: float, card: CardOptions
) -> str:
    """The line for a shell, in whatever folder, that publishes as [`publish_checkpoint`] with these options does."""
    options = {"license": card.license, "project_url": card.project_url, "tags": ",".join(card.tags) or None}
    options |= {"revision": revision, "timeout": f"{timeout:g}"}
    words = [f"--{name}={value}" for name, value in options.items() if value is not None]
    place = os.path.abspath(checkpoint)
    return shlex.join(["air-hf", "publish", place, repository, *words, *([] if private else ["--public"])])


class BackgroundPublisher:
    """Pushes checkpoints while training goes on. Whatever goes wrong is reported, and training never ends by it.

    Args:
        repository (`str`): `ORG/NAME`, or `NAME` for one of the token's owner.
        private (`bool`): of a repository that is made now.
        report (`Callable[[str], None]`): gets a line about every push, some of them from another thread.
        revision (`str`, *optional*): the branch; made if it does not exist.
        timeout (`float`): seconds after which a push is given up.
        card ([`CardOptions`], *optional*): licence, address and tags.
    """

    def __init__(
        self,
        repository: str,
        private: bool,
        report: Callable[[str], None],
        *,
        revision: str | None = None,
        timeout: float = TIMEOUT,
        card: CardOptions | None = None,
    ):
        self.repository, self.report = repository, report
        self._abandoned = threading.Event()
        self._options = {"private": private, "revision": revision, "timeout": timeout, "card": card or CardOptions()}
        self._thread: threading.Thread | None = None
        self._under_way = 0  # step of the push that is

    def check(self) -> None:
        """Reports from another thread a token that the Hub refuses, or a Hub that does not answer: the first push,
        which would tell, may be hours away."""
        threading.Thread(target=self._check, daemon=True).start()

    def _check(self) -> None:
        try:
            find_owner(self.repository, timeout=self._options["timeout"], stopped=self._abandoned.is_set)
        except PublishError as error:
            if not self._abandoned.is_set():
                self.report(f"as things are, nothing can be published; training goes on: {error}")

    def push(self, checkpoint: str | Path, step: int) -> None:
        """Copies the checkpoint of a step and pushes the copy in the background, unless an earlier push still runs."""
        if self._is_running():
            self.report(f"step {step} is not published: the push of step {self._under_way} is still under way")
            return
        parent = None
        try:
            parent = tempfile.mkdtemp(prefix="air-hf-")
            # A copy, since a run that goes on may remove its checkpoint.
            copy = shutil.copytree(checkpoint, Path(parent) / Path(checkpoint).name, ignore=_others)
        except OSError as error:
            if parent is not None:
                shutil.rmtree(parent, ignore_errors=True)
            self.report(f"step {step} is not published, training goes on: {checkpoint} cannot be copied ({error})")
            return
        self._under_way = step
        self._thread = threading.Thread(target=self._push, args=(copy, checkpoint, step), daemon=True)
        self._thread.start()

    def _push(self, copy: Path, checkpoint: str | Path, step: int) -> None:
        try:
            message = f"air-hf: in training, step {step}"
            repository, commit = publish_checkpoint(
                copy, self.repository, message=message, stopped=self._abandoned.is_set, **self._options
            )
            self.report(f"step {step} is published as {repository}, commit {commit[:8]}; training goes on")
        except Exception as error:  # none may end training, and none may be lost
            reason = str(error).replace(str(copy), str(checkpoint))
            self.report(f"step {step} is not published, training goes on: {checkpoint}: {reason}")
        finally:
            shutil.rmtree(copy.parent, ignore_errors=True)

    def _is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def finish(self, checkpoint: str | Path) -> None:
        """Waits for a push under way, then publishes the finished run. Either ends after the time limit, or at once
        when [`abandon`] is called, from a signal's handler, say."""
        while self._is_running() and not self._abandoned.is_set():
            self._thread.join(0.1)
        try:
            repository, commit = publish_checkpoint(
                checkpoint, self.repository, stopped=self._abandoned.is_set, **self._options
            )
            self.report(f"published as {repository}, commit {commit[:8]}")
        except Exception as error:  # the run is done and saved, whatever the Hub does
            again = publish_command(checkpoint, self.repository, **self._options)
            self.report(f"{checkpoint} is not published: {error}\nthen: {again}")

    def abandon(self) -> None:
        """Gives up the push under way, if there is one, and returns within a second."""
        self._abandoned.set()
        if self._is_running():
            self._thread.join(0.9)
