"""Checkpoints that come with the package, by short names: `air-hf solve --model sudoku-9x9 BOARD`."""

import json
from importlib.resources import files
from pathlib import Path

from air_hf.modeling import AIRConfig, CheckpointError
from air_hf.puzzles import family_name, get_puzzle


def shipped_checkpoints() -> dict[str, Path]:
    """The folders of the checkpoints that come with the package, by name."""
    folders = sorted(Path(str(entry)) for entry in files("air_hf.checkpoints").iterdir() if entry.is_dir())
    return {folder.name: folder for folder in folders if (folder / "config.json").is_file()}


def resolve_checkpoint(source: str | Path) -> str | Path:
    """The folder that a short name stands for; anything else, an existing folder of that name first, as it is."""
    if Path(source).exists():
        return source
    return shipped_checkpoints().get(str(source), source)


def checkpoint_for(puzzle: str) -> Path:
    """The checkpoint of this package that solves a puzzle, e.g. "sudoku-9x9".

    The one of that name comes first, then of the family's whose weights fit any size, and which were trained on as many
    symbols, the one trained on boards nearest in size. Others, as `sudoku-9x9-mlp`, are taken where they are named.

    Raises:
        CheckpointError: none does.
    """
    shipped = shipped_checkpoints()
    if puzzle in shipped:
        return shipped[puzzle]
    configs = {
        name: AIRConfig.from_dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        for name, folder in shipped.items()
    }
    rules = get_puzzle(puzzle)
    others = {
        name: config.seq_len
        for name, config in configs.items()
        if config.fits_any_board
        and family_name(config.puzzle) == rules.family
        and config.vocab_size == rules.vocab_size
    }
    if others:
        return shipped[min(others, key=lambda name: abs(others[name] - rules.num_cells))]
    raise CheckpointError(
        f"no model for {puzzle} comes with this package, which has {', '.join(configs) or 'none'}; "
        "name one: --model DIR_OR_REPO"
    )
