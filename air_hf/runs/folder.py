"""A run's folder: its checkpoints, of which the last few and the best are kept, and which of them a run goes on from.

checkpoints/step-00000400/   a whole checkpoint each, written beside its place and renamed
checkpoint -> checkpoints/step-00000400     the last one
metrics.jsonl, evaluations.jsonl            the records
run.lock                                    held by the process that trains here
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from air_hf.evaluation import EvaluationResult
from air_hf.files import check_place, recover_folder
from air_hf.hub import EVALUATION, CheckpointError
from air_hf.runs.checkpoint import MANIFEST, check_manifest
from air_hf.runs.records import RECORDS, keep_records


class RunFolder:
    """Args:
    output (`str` or `Path`): the run's folder.
    keep (`int`): checkpoints to keep, beside the best one.
    """

    def __init__(self, output: str | Path, keep: int):
        self.output, self.keep = Path(output), keep
        self.checkpoint = self.output / "checkpoint"
        self._checkpoints = self.output / "checkpoints"
        self._lock = FileLock(self.output / "run.lock")

    def place(self, step: int) -> Path:
        """Where the checkpoint of a step belongs."""
        return self._checkpoints / f"step-{step:08d}"

    def find_checkpoint(self, resume_from: str | None, report: Callable[[str], None]) -> Path | None:
        """What a run goes on from, None for a new one.

        Args:
            resume_from (`str`, *optional*): a checkpoint; "latest" for this folder's newest whole one, if it has any.
            report (`Callable`): gets what is passed over, and why.

        Raises:
            ValueError: the folder holds a run, and `resume_from` is None or a checkpoint of another one.
        """
        if resume_from == "latest":
            return self.latest(report)
        holds_a_run = any((self.output / name).exists() for name in RECORDS) or self._saved()
        if resume_from is None and holds_a_run:
            raise ValueError(f"{self.output} already holds a run; choose another output_dir, or --resume_from latest")
        if resume_from is not None and holds_a_run and not self.owns(resume_from):
            raise ValueError(f"{self.output} holds another run than {resume_from}; choose another output_dir")
        return None if resume_from is None else Path(resume_from)

    def owns(self, checkpoint: str | Path) -> bool:
        """Whether a checkpoint is one of this folder's."""
        return Path(checkpoint).resolve().parent == self._checkpoints.resolve()

    def _saved(self) -> list[Path]:
        """The checkpoints, oldest first; what a killed save left unfinished has another name."""
        folders = self._checkpoints.glob("step-*") if self._checkpoints.is_dir() else []
        return sorted(folder for folder in folders if folder.name.removeprefix("step-").isdigit())

    def latest(self, report: Callable[[str], None]) -> Path | None:
        """The newest whole checkpoint, None if there is none at all; `report` gets why damaged ones are passed over.

        Raises:
            CheckpointError: there are checkpoints, and none of them is whole.
        """
        for aside in self._checkpoints.glob(".step-*.old"):
            recover_folder(aside.with_name(aside.name.removeprefix(".").removesuffix(".old")))
        saved = self._saved()
        for folder in reversed(saved):
            try:
                check_manifest(folder)
            except CheckpointError as error:
                report(f"{error}; it is passed over")
            else:
                return folder
        if saved:
            raise CheckpointError(f"no checkpoint in {self._checkpoints} is whole; remove them to start anew")
        return None

    def adopt(self, step: int) -> None:
        """Makes the checkpoint of a step, just saved, the run's last one, and removes what need not be kept.

        Later ones are of a run that went back, or damaged.
        """
        link = self._checkpoints / ".checkpoint"
        link.unlink(missing_ok=True)
        link.symlink_to(Path("checkpoints") / self.place(step).name, target_is_directory=True)
        os.replace(link, self.checkpoint)
        saved = self._saved()
        valid = [folder for folder in saved if folder.name <= self.place(step).name]
        kept = {*valid[-self.keep :], max(valid, key=_score)}
        for folder in saved:
            if folder not in kept:
                shutil.rmtree(folder)
        for left in self._checkpoints.glob(".step-*"):  # by a killed save, of whatever step
            shutil.rmtree(left) if left.is_dir() else left.unlink()

    def open(self, step: int) -> None:
        """Makes the folder, keeps other runs out of it until [`close`], and drops records of steps to come.

        Args:
            step (`int`): the run goes on after this one; its evaluation counts where its checkpoint has it.

        Raises:
            ValueError: another process trains in this folder, or `checkpoint` is no link, as in a copy that followed
                it, and holds something else than a checkpoint of this run.
            OSError: the folder cannot be made or written.
        """
        check_place(self.output, "a folder")
        self.output.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(blocking=False)
        except Timeout as error:
            raise ValueError(
                f"another process trains in {self.output}; wait for it or stop it, or choose another output_dir"
            ) from error
        if self.checkpoint.is_dir() and not self.checkpoint.is_symlink():
            if not any(_is_copy(self.checkpoint, saved) for saved in self._saved()):
                raise ValueError(
                    f"{self.checkpoint} is a folder of its own; expected a link to the last of {self._checkpoints}: "
                    "move it elsewhere"
                )
            shutil.rmtree(self.checkpoint)
        evaluated = (self.place(step) / EVALUATION).is_file()
        for name in RECORDS:
            keep_records(self.output / name, step, evaluated)

    def close(self) -> None:
        """Lets other runs in, where [`open`] kept them out."""
        self._lock.release()


def _is_copy(one: Path, other: Path) -> bool:
    """Whether two checkpoints say the same of all of their files."""
    manifests = [folder / MANIFEST for folder in (one, other)]
    return all(path.is_file() for path in manifests) and manifests[0].read_bytes() == manifests[1].read_bytes()


def _score(folder: Path) -> tuple[float, float, str]:
    """What makes a checkpoint the best: exact accuracy, then cell accuracy; the last of equals.

    One without a readable evaluation (none was due, or a disk damaged it) is worse than any with one.
    """
    try:
        scores = EvaluationResult(**json.loads((folder / EVALUATION).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return (-1.0, -1.0, folder.name)
    return (scores.exact_accuracy, scores.cell_accuracy, folder.name)
