"""The checkpoints of a sweep on the Hub: a repository for each, one table on all of their cards, and a collection."""

import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from air_hf.hub.loading import EVALUATION
from air_hf.hub.publishing import publish_checkpoint
from air_hf.hub.records import Records, read_records
from air_hf.hub.transfer import TIMEOUT, PublishError, call
from air_hf.modeling import CheckpointError

_MUST_AGREE = ("puzzle", "num_puzzles", "num_segments", "data_sha256")  # for scores to stand in one table


class _Member(NamedTuple):
    """A finished run of a sweep; `name` is that of its setting."""

    name: str
    seed: int
    checkpoint: Path
    records: Records

    @property
    def repository_part(self) -> str:
        """What tells its repository from the others', of the symbols that the Hub allows."""
        return re.sub(r"[^\w.-]+", "-", f"{self.name}-seed-{self.seed}")


def publish_sweep(
    folder: str | Path,
    namespace: str,
    name: str | None = None,
    *,
    private: bool = True,
    timeout: float = TIMEOUT,
    report: Callable[[str], None] = print,
    **options,
) -> bool:
    """Publishes the finished runs of `air-hf sweep`, setting by setting; the same call again completes what failed.

    Args:
        folder (`str` or `Path`): the sweep's `--output`: `SETTING/seed-N/checkpoint` for each run.
        namespace (`str`): user or organisation.
        name (`str`, *optional*): of the collection, and what the repositories' names begin with; `air-PUZZLE` if None.
        private (`bool`): of repositories and a collection that are made now.
        timeout (`float`): seconds for each push.
        report (`Callable[[str], None]`): gets a line about every repository.
        options: as [`publish_checkpoint`] takes them.

    Returns:
        `bool`: whether every run of the sweep is published.

    Raises:
        CheckpointError: there is no finished run, or they were not scored on the same puzzles.
    """
    members, unfinished = find_members(Path(folder))
    for place in unfinished:
        report(f"{place} is not finished, and not published")
    name = name or f"air-{members[0].records.scores['puzzle']}"
    runs = [(f"{namespace}/{name}-{member.repository_part}", member) for member in members]
    published = []
    for repository, member in runs:
        table = sweep_table(runs, repository)
        try:
            _, commit = publish_checkpoint(
                member.checkpoint, repository, private=private, timeout=timeout, more=table, **options
            )
        except (CheckpointError, PublishError) as error:
            report(f"{member.name}, seed {member.seed}: {error}")
        else:
            report(f"{member.name}, seed {member.seed}: published as {repository}, commit {commit[:8]}")
            published.append(repository)
    if published:
        arguments = {"repository": f"{namespace}/{name}", "items": published, "private": private, "token": None}
        report(f"collection: {call('collect', arguments, timeout)['url']}")
    return len(published) == len(members) and not unfinished


def find_members(folder: Path) -> tuple[list[_Member], list[Path]]:
    """The finished runs of a sweep's folder, and the places of those that are not.

    Raises:
        CheckpointError: there is none, or their scores do not compare.
    """
    members, unfinished = [], []
    for place in sorted(folder.glob("*/seed-*"), key=lambda path: (path.parent.name, len(path.name), path.name)):
        seed = place.name.removeprefix("seed-")
        if not seed.isdecimal():
            continue
        checkpoint = place / "checkpoint"
        if not (checkpoint / EVALUATION).exists():
            unfinished.append(place)
            continue
        records = read_records(checkpoint)
        if records.training.get("finished"):
            members.append(_Member(unquote(place.parent.name), int(seed), checkpoint, records))
        else:
            unfinished.append(place)
    if not members:
        raise CheckpointError(f"{folder} holds no finished run of a sweep; expected SETTING/seed-N/checkpoint")
    for key in _MUST_AGREE:
        values = {str(member.records.scores.get(key)) for member in members}
        if len(values) > 1:
            raise CheckpointError(
                f"{folder}: the runs differ in {key} ({', '.join(sorted(values))}) and do not compare"
            )
    return members, unfinished


def sweep_table(runs: list[tuple[str, _Member]], this: str) -> str:
    """A section of Markdown: exact accuracy of every setting, with a link to every run but `this` repository's."""
    records = runs[0][1].records
    lines = [
        "## All runs of this sweep",
        "",
        f"Exact accuracy in %, mean ± standard deviation over seeds; {records.tested_on}, "
        f"{records.scores['num_segments']} segments.",
        "",
        "| setting | exact accuracy | runs (seed: accuracy) |",
        "| --- | --- | --- |",
    ]
    for name in dict.fromkeys(member.name for _, member in runs):
        own = [(repository, member) for repository, member in runs if member.name == name]
        values = [100 * member.records.scores["exact_accuracy"] for _, member in own]
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        texts = [f"{member.seed}: {value:.1f}" for (_, member), value in zip(own, values, strict=True)]
        links = [
            text if repository == this else f"[{text}](https://huggingface.co/{repository})"
            for (repository, _), text in zip(own, texts, strict=True)
        ]
        lines.append(f"| {name} | {statistics.mean(values):.1f}{spread} | {', '.join(links)} |")
    return "\n".join([*lines, "", ""])
