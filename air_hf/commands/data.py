"""`air-hf data`: generate, build, publish, info."""

import argparse
from collections.abc import Callable
from pathlib import Path

from air_hf.dataset_builders.builders import MazeHard, PuzzleBuilder, SudokuExtreme
from air_hf.dataset_builders.folder import build_folder, check_folder, read_provenance
from air_hf.dataset_builders.generate import generate_split, write_split
from air_hf.hub import fetch_folder, push_folder
from air_hf.puzzles import get_puzzle

FAMILIES: dict[str, type[PuzzleBuilder]] = {"sudoku": SudokuExtreme, "maze": MazeHard}
_LICENSES = {"generate": "apache-2.0", "csv": "unknown", "hub": "unknown"}


def configure(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], None]:
    actions = parser.add_subparsers(dest="action", required=True)

    generate = actions.add_parser("generate", help="draw puzzles from a seed and write train.csv and test.csv")
    generate.add_argument("--puzzle", required=True, help='family and size, e.g. "sudoku-6x6" or "maze-10x10"')
    generate.add_argument("--train", type=int, required=True, help="train puzzles")
    generate.add_argument("--test", type=int, required=True, help="test puzzles, of symmetry classes not in train")
    generate.add_argument("--output", type=Path, required=True, help="folder for train.csv and test.csv")
    generate.add_argument("--seed", type=int, default=0, help="of everything that is drawn (default 0)")
    generate.add_argument("--workers", type=int, help="processes (default: one per core)")
    _add_generator_options(generate)

    build = actions.add_parser("build", help="build a data set as a folder ready for the Hub")
    build.add_argument("family", choices=FAMILIES)
    build.add_argument("--source", choices=("hub", "csv", "generate"), required=True)
    build.add_argument("--output", type=Path, required=True, help="new folder")
    build.add_argument("--configs", help="comma-separated; the first becomes the default (default: all of the family)")
    build.add_argument("--path", help="folder with train.csv and test.csv, for --source csv")
    build.add_argument("--revision", help="commit, tag or branch of the Hub's data set (default main)")
    build.add_argument("--puzzle", help="family and size of the boards (default: the family's own)")
    build.add_argument("--seed", type=int, help="of the subset, the images and the generator (default 0)")
    build.add_argument("--subsample_size", type=int, help="train puzzles in the 1k configurations (default 1000)")
    build.add_argument("--min_difficulty", type=float, help="least rating of a puzzle")
    build.add_argument("--on_error", choices=("stop", "skip"), help="at a bad row (default stop)")
    build.add_argument("--check_unique", action="store_true", default=None, help="refuse questions with two solutions")
    build.add_argument("--num_train", type=int, help="puzzles to generate (default 1000)")
    build.add_argument("--num_test", type=int, help="puzzles to generate (default 1000)")
    build.add_argument("--license", help="of the puzzles (default: apache-2.0 if generated, else unknown)")
    build.add_argument("--num_proc", type=int, help="processes that write (default 1)")
    build.add_argument("--cache_dir", help="for downloads and generated puzzles (default: that of datasets)")
    _add_generator_options(build)

    publish = actions.add_parser("publish", help="push a built folder to the Hub in one commit")
    publish.add_argument("folder", type=Path)
    publish.add_argument("repository", help="ORG/NAME")
    publish.add_argument("--public", action="store_true", help="a new repository is private without this")
    publish.add_argument("--revision", help="branch to commit to (default main)")

    info = actions.add_parser("info", help="say what a built folder or a published repository holds")
    info.add_argument("source", help="folder, or ORG/NAME on the Hub")
    info.add_argument("--revision", help="of the repository")
    info.add_argument("--check", action="store_true", help="read every row and compare with the recorded SHA-256")

    workers = {"generate": _generate, "build": _build, "publish": _publish, "info": _info}
    return lambda args: workers[args.action](args)


def _add_generator_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to generate")
    group.add_argument("--clues", type=int, help="Sudoku: clues to leave (default: minimal puzzles)")
    group.add_argument("--min_rating", type=int, help="Sudoku: least dead ends of our solver (default 0)")
    group.add_argument("--min_path_cells", type=int, help="maze: least cells on a shortest path, S and G included")
    group.add_argument("--wall_share", type=float, help="maze: probability of a wall (default 0.37)")
    group.add_argument("--unique_path", action="store_true", default=None, help="maze: only one shortest path")


def _generator_options(args: argparse.Namespace) -> dict:
    names = ("clues", "min_rating", "min_path_cells", "wall_share", "unique_path")
    return {name: value for name in names if (value := getattr(args, name)) is not None}


def _generate(args: argparse.Namespace) -> None:
    puzzle, options = get_puzzle(args.puzzle), _generator_options(args)
    split = generate_split(puzzle, args.train, args.test, args.seed, args.workers, **options)
    write_split(args.output, puzzle, split, args.seed, options)
    print(f"wrote {args.train} train and {args.test} test puzzles of {puzzle.name} to {args.output}")


def _build(args: argparse.Namespace) -> None:
    family = FAMILIES[args.family]
    known = {config.name: config for config in family.BUILDER_CONFIGS}
    names = args.configs.split(",") if args.configs else list(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"unknown configuration {', '.join(unknown)}; {args.family} has {', '.join(known)}")
    fields = ("path", "revision", "puzzle", "seed", "min_difficulty", "on_error", "check_unique")
    fields += ("num_train", "num_test", "subsample_size")
    given = {name: value for name in fields if (value := getattr(args, name)) is not None}
    options = _generator_options(args)
    builders = []
    for name in names:
        overrides = dict(given)
        if known[name].subsample_size is None:  # a configuration of every puzzle stays one
            overrides.pop("subsample_size", None)
        if options:
            overrides["generator"] = options
        builders.append(family(name, source=args.source, cache_dir=args.cache_dir, **overrides))
    facts = build_folder(builders, args.output, args.license or _LICENSES[args.source], args.num_proc)
    _describe(str(args.output), facts)


def _publish(args: argparse.Namespace) -> None:
    read_provenance(args.folder)  # a folder that is none of ours is refused here
    commit = push_folder(args.folder, args.repository, "dataset", private=not args.public, revision=args.revision)
    print(f"published {args.folder} as {args.repository}, commit {commit}")
    first = next(iter(read_provenance(args.folder)))
    print(f'load it with: datasets.load_dataset("{args.repository}", "{first}")')


def _info(args: argparse.Namespace) -> None:
    folder = Path(args.source)
    if not folder.is_dir():
        names = None if args.check else ["provenance.json"]
        folder = fetch_folder(args.source, "dataset", args.revision, names)
    _describe(args.source, read_provenance(folder))
    if args.check:
        check_folder(folder)
        print("every row is as it was built")


def _describe(name: str, facts: dict) -> None:
    first = next(iter(facts.values()))
    source = first["source"]
    origin = source.get("repository", source.get("puzzle", "CSV files"))
    print(f"{name}: {first['puzzle']} puzzles, source {source['kind']} ({origin})")
    print(f"{'configuration':16}{'split':8}{'rows':>12}{'puzzles':>12}{'skipped':>10}  SHA-256 of the rows")
    for config, fact in facts.items():
        for split, info in fact["splits"].items():
            print(
                f"{config:16}{split:8}{info['num_rows']:>12,}{info['puzzles']:>12,}{info['skipped']:>10,}"
                f"  {info['sha256']}"
            )
            for message in info["skipped_because"]:
                print(f"    skipped: {message}")
        print(f"    test puzzles with an image in train: {fact['test_puzzles_with_a_class_in_train']:,}")
