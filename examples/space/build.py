"""Assembles the page: its files, the runtime, and every checkpoint exported. `make space` calls

python examples/space/build.py --output build/space checkpoints/*
"""

import argparse
import gzip
import json
import shutil
from pathlib import Path

import numpy as np

from air_hf.dataset_builders.generate import generator_class, make_generator
from air_hf.export import MANIFEST, export_checkpoint
from air_hf.files import atomic_folder, write_text
from air_hf.modeling import AIRConfig
from air_hf.puzzles import Puzzle, puzzle_of

PAGE = Path(__file__).parent
RUNTIME = PAGE / "node_modules/onnxruntime-web/dist"
SCRIPT, ENGINE = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
FILES = ("README.md", "index.html", "style.css", *(path.name for path in sorted(PAGE.glob("*.js"))))


def build(checkpoints: list[Path], output: Path) -> None:
    """Writes the folder that a static host serves; an older one is replaced."""
    if not RUNTIME.is_dir():
        raise FileNotFoundError(f"{RUNTIME} is missing; fetch it with: npm ci --prefix {PAGE}")
    named = {}
    for path in checkpoints:
        if (path / "config.json").is_file():
            # A run's own folder has the name; of its checkpoints each is called so.
            name = path.absolute().parent.name if path.name == "checkpoint" else path.name
            if name in named:
                raise ValueError(
                    f"{named[name]} and {path} are both called {name}; copy one to a folder of another name"
                )
            named[name] = path
    if not named:
        raise FileNotFoundError("no checkpoint to show: every argument lacks a config.json")
    with atomic_folder(output) as folder:
        for name in FILES:
            shutil.copy(PAGE / name, folder / name)
        (folder / "runtime").mkdir()
        shutil.copy(RUNTIME / SCRIPT, folder / "runtime" / SCRIPT)
        # Hosts do not compress it on the way, and it is most of what a visitor downloads.
        packed = gzip.compress((RUNTIME / ENGINE).read_bytes(), mtime=0)
        (folder / "runtime" / f"{ENGINE}.gz").write_bytes(packed)
        models = [_add_model(name, named[name], folder) for name in sorted(named, reverse=True)]
        write_text(folder / "models.json", json.dumps(models, indent=1, ensure_ascii=False) + "\n")


def _add_model(name: str, checkpoint: Path, folder: Path) -> dict:
    config = AIRConfig.from_pretrained(checkpoint)
    if config.puzzle is None:
        raise ValueError(f"{checkpoint}: config.json names no puzzle, so the page could not draw its boards")
    place = f"models/{name}"
    export_checkpoint(checkpoint, folder / place, attentions=config.mixer == "attention")
    _drop_duplicates(folder / place)
    return {
        "name": name,
        "folder": place,
        "weights": config.num_weights,
        "examples": _examples(puzzle_of(config)),
    }


def _drop_duplicates(export: Path) -> None:
    """Removes files that an earlier one, by name, equals: the page looks for contents, by their hash."""
    hashes = json.loads((export / MANIFEST).read_text(encoding="utf-8"))["air_hf"]["files"]
    seen = set()
    for name, digest in hashes.items():
        if digest in seen:
            (export / name).unlink()
        seen.add(digest)


def _examples(puzzle: Puzzle) -> list[dict[str, str]]:
    """Questions to begin with, from easy to hard."""
    generator = generator_class(type(puzzle))
    if generator is None:
        return [{"name": "example", "board": puzzle.example}]
    rng = np.random.default_rng(2605)
    kinds = generator.showcase(puzzle)
    boards = {name: make_generator(puzzle, **options).draw(1, rng)[0][0] for name, options in kinds.items()}
    return [{"name": name, "board": puzzle.format(board)} for name, board in boards.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", type=Path, nargs="+", help="checkpoint folders")
    parser.add_argument("--output", type=Path, default=Path("build/space"))
    args = parser.parse_args()
    try:
        build(args.checkpoints, args.output)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    size = sum(path.stat().st_size for path in args.output.rglob("*") if path.is_file())
    print(f"wrote {args.output}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
