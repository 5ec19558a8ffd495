"""Every instrument on one checkpoint and one set of puzzles: what `air-hf analyze` and `air-hf reproduce` run."""

from collections.abc import Collection
from dataclasses import dataclass, field

import torch

from air_hf.analysis.attention import Contrasts, attention_contrasts, choose_segments, maps_within
from air_hf.analysis.dynamics import Geometry, Patching, measure_geometry, patch_states
from air_hf.analysis.probes import ProbeAccuracy, fit_probes
from air_hf.analysis.roles import RoleStudy, check_fit, puzzle_ids_of, study_roles
from air_hf.analysis.tracing import puzzles_within
from air_hf.analysis.walk import check_frozen
from air_hf.data import DataError, PuzzleSet, load_published, load_puzzles
from air_hf.hub import CheckpointError, load_model, training_facts
from air_hf.hub.loading import weights_sha256
from air_hf.hub.model_card import find_variant
from air_hf.modeling import AIRForPuzzleSolving
from air_hf.modeling.modeling_air import check_max_segments
from air_hf.puzzles import Puzzle, family_name, puzzle_of
from air_hf.puzzles.base import PADDING

PARTS = ("roles", "freeze", "attention", "probe", "geometry", "patching")
PAPER_PARTS = ("roles", "freeze", "attention")
_GEOMETRY_PUZZLES, _GEOMETRY_GIB = 16, 1  # whose states are all held, and copied in float64


@dataclass
class Study:
    """What the instruments found; a part that was not run, or that the model has not, is None or empty.

    Args:
        facts (`dict`): checkpoint, its hash, data, its hash, seed, counts: what makes the numbers repeatable.
        roles ([`RoleStudy`]): the undisturbed rollout.
        frozen (`dict[str, RoleStudy]`): by the level that was held.
        contrasts ([`Contrasts`]), probe ([`ProbeAccuracy`]), geometry ([`Geometry`]): where they were run.
        patching (`list[Patching]`): L, H and both swapped before a segment.
        skipped (`dict[str, str]`): parts that the checkpoint cannot have, and why.
    """

    facts: dict
    roles: RoleStudy
    frozen: dict[str, RoleStudy] = field(default_factory=dict)
    contrasts: Contrasts | None = None
    probe: ProbeAccuracy | None = None
    geometry: Geometry | None = None
    patching: list[Patching] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def load_study(
    checkpoint: str,
    data: str | None = None,
    dataset: str | None = None,
    dataset_config: str | None = None,
    count: int = 200,
    seed: int = 0,
    device: str | None = None,
    task: str | None = None,
    puzzle: str | None = None,
    **place,
) -> tuple[AIRForPuzzleSolving, PuzzleSet, dict]:
    """A checkpoint of a folder or the Hub, a sample of its puzzles, and the facts that make the numbers repeatable.

    Args:
        checkpoint (`str`): folder, or repository on the Hub.
        data (`str`, *optional*): CSV file, or folder with test.csv.
        dataset (`str`, *optional*), dataset_config (`str`, *optional*): a data set on the Hub instead; that of the
            paper's task if neither is given and the boards are of its size.
        count (`int`), seed (`int`): of the sample.
        device (`str`, *optional*): an accelerator if there is one.
        task (`str`, *optional*): the family that the checkpoint must solve.
        puzzle (`str`, *optional*): boards of another size than the checkpoint's own, as [`load_model`] takes them.
        place: `revision` of the checkpoint's repository, `cache_dir` for what is downloaded, `token`.

    Raises:
        ValueError: no such checkpoint, one that names no puzzle or another task's, or fewer puzzles than asked for.
    """
    model = load_model(checkpoint, puzzle, dtype=torch.float32, **place)  # rounded states would be studied otherwise
    config = model.config
    if config.puzzle is None:
        raise CheckpointError(
            f'{checkpoint}: config.json does not say what the boards are; add it, e.g. "puzzle": "sudoku-9x9"'
        )
    family = family_name(config.puzzle)
    if task is not None and family != task:
        raise ValueError(
            f"{checkpoint} solves {config.puzzle} ({config.vocab_size} symbols, {config.seq_len} cells); "
            f"the task asked for is {task}"
        )
    cache_dir = place.get("cache_dir")
    puzzles = _load_test_puzzles(puzzle_of(config), data, dataset, dataset_config, cache_dir).sample(count, seed)
    device = device or (torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu")
    facts = {
        "checkpoint": str(checkpoint),
        "revision": place.get("revision"),
        "weights_sha256": weights_sha256(checkpoint, **place),
        "variant": _variant(checkpoint, config, **place),
        "puzzle": config.puzzle,
        "data": puzzles.source,
        "data_sha256": puzzles.sha256(),
        "data_commit": puzzles.commit,
        "puzzles": len(puzzles),
        "seed": seed,
        "torch": torch.__version__,
        "device": str(device),
    }
    return model.to(device), puzzles, facts


def _load_test_puzzles(
    puzzle: Puzzle, data: str | None, dataset: str | None, dataset_config: str | None, cache_dir: str | None
) -> PuzzleSet:
    if data is not None and dataset is not None:
        raise ValueError(f"both data ({data}) and dataset ({dataset}) are given; choose one")
    if data is not None:
        return load_puzzles(data, puzzle, split="test")
    if dataset is None:
        from air_hf.dataset_builders.builders import builder_of  # imports `datasets`, which takes as long as torch

        builder = builder_of(puzzle.family)
        dataset = builder.HUB_REPO if builder.BUILDER_CONFIGS[0].puzzle == puzzle.name else None
    if dataset is None:
        raise DataError(f"there is no public data set of {puzzle.name}; say which puzzles, by --data or --dataset")
    return load_published(dataset, dataset_config, "test", None, puzzle, cache_dir=cache_dir)


def _variant(checkpoint: str, config, **place) -> str:
    """As the run was started or, where nothing says so, as the configuration looks."""
    recorded = training_facts(checkpoint, **place)
    return (recorded.get("arguments") or recorded).get("variant") or find_variant(config)


def run_study(
    model: AIRForPuzzleSolving,
    puzzles: PuzzleSet,
    facts: dict,
    parts: Collection[str] = PARTS,
    max_segments: int | None = None,
    segments: list[int] | None = None,
    batch_size: int = 64,
    seed: int = 0,
    skip: bool = True,
    freeze_from: int = 0,
) -> Study:
    """Runs some of the instruments; roles always.

    Args:
        model ([`AIRForPuzzleSolving`]), puzzles ([`PuzzleSet`]), facts (`dict`): of [`load_study`].
        parts (collection of `str`): of [`PARTS`].
        max_segments (`int`, *optional*): segments of a rollout; the model's own number if None.
        segments (`list[int]`, *optional*): at which attention is looked at; those of the paper if None.
        batch_size (`int`): puzzles that run together.
        seed (`int`): of the power iteration.
        skip (`bool`): whether a part that the checkpoint cannot have is left out, which the study says; else it is an
            error, as attention is in any case where `segments` asks for it.
        freeze_from (`int`): the segment from which on a state is held; 0 holds the initial one.

    Raises:
        ValueError: an unknown part, or what the instruments refuse; nothing has run then.
    """
    max_segments = model.config.max_segments if max_segments is None else max_segments
    if freeze_from and "freeze" not in parts:
        raise ValueError(f"freeze_from is segment {freeze_from}, but no state is held without the part freeze")
    skipped = _what_to_skip(model, puzzles, parts, max_segments, segments, skip)
    check_frozen(("L", "H"), freeze_from, max_segments)
    parts = set(parts) - skipped.keys()
    facts = facts | {"segments": max_segments, "updates": max_segments * len(model.config.schedule)}
    study = Study(facts, study_roles(model, puzzles, max_segments, batch_size=batch_size), skipped=skipped)
    if "freeze" in parts:
        for level in ("H", "L"):
            study.frozen[level] = study_roles(
                model, puzzles, max_segments, frozen=level, freeze_from=freeze_from, batch_size=batch_size
            )
    if "attention" in parts:
        size = min(batch_size, maps_within(model))
        study.contrasts = attention_contrasts(model, puzzles, segments, max_segments=max_segments, batch_size=size)
    if "probe" in parts:
        study.probe = fit_probes(model, puzzles, max_segments, batch_size=batch_size)
    if "geometry" in parts:
        rows = slice(min(_GEOMETRY_PUZZLES, puzzles_within(_GEOMETRY_GIB, model, max_segments, ("states",))))
        ids, puzzle_ids = torch.from_numpy(puzzles.questions[rows]).long(), puzzle_ids_of(puzzles, rows)
        study.geometry = measure_geometry(
            model, ids, max_segments, max(64, max_segments), seed=seed, puzzle_ids=puzzle_ids
        )
    if "patching" in parts:
        segment = max(1, max_segments // 4)
        study.patching = [
            patch_states(model, puzzles, level, segment, max_segments, batch_size) for level in ("L", "H", "LH")
        ]
    return study


def _what_to_skip(
    model: AIRForPuzzleSolving,
    puzzles: PuzzleSet,
    parts: Collection[str],
    max_segments: int,
    segments: list[int] | None,
    skip: bool,
) -> dict[str, str]:
    """Parts that were asked for and cannot be had, and why; all that can be refused is, before anything runs.

    Raises:
        ValueError: see [`run_study`].
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise ValueError(f"there is no part {unknown[0]!r}; parts are {', '.join(PARTS)}")
    check_fit(model, puzzles)
    check_max_segments(max_segments)
    choose_segments(segments, max_segments)
    reasons = {}
    if model.config.mixer != "attention":
        reasons["attention"] = f'this checkpoint mixes positions by "{model.config.mixer}", not by attention'
    if max_segments == 1:
        reasons["patching"] = "a rollout of one segment has no states to swap"
    if len(puzzles) < 2:
        reasons |= dict.fromkeys(("probe", "patching"), f"it needs at least 2 puzzles; there are {len(puzzles)}")
    open_boards = (puzzles.puzzle.undecided(puzzles.questions) & (puzzles.answers != PADDING)).any(-1)
    half = len(puzzles) // 2
    if not (open_boards[:half].any() and open_boards[half:].any()):
        reasons.setdefault("probe", "all boards of one half of the puzzles are complete")
    skipped = {part: reason for part, reason in reasons.items() if part in parts}
    for part, reason in skipped.items():
        if not skip or (part == "attention" and segments is not None):
            raise ValueError(f"{part} was asked for, but {reason}")
    return skipped


__all__ = ["PAPER_PARTS", "PARTS", "Study", "load_study", "run_study"]
