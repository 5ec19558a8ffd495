"""`air-hf data`: generate, build, publish, info."""

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path

from air_hf.commands.place import add_cache_option
from air_hf.commands.publish import add_timeout_option
from air_hf.dataset_builders.builders import builder_of
from air_hf.dataset_builders.folder import build_folder, check_folder, name_repository, read_provenance
from air_hf.dataset_builders.generate import check_new, generate_split, generator_class, write_split
from air_hf.hub import fetch_folder, push_folder, resolve_repository
from air_hf.puzzles import PuzzleError, all_families, get_puzzle
from air_hf.run_recipe import RunRecipe

_OF_SOURCE = {"revision": "hub", "num_train": "generate", "num_test": "generate", "max_seconds": "generate"}
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
    options = _add_family_options(generate)

    build = actions.add_parser("build", help="build a data set as a folder ready for the Hub")
    build.add_argument("family", help="of the puzzles, e.g. sudoku, maze, grid")
    sources = "the family's published data set, files of yours (--path), or the family's generator"
    build.add_argument("--source", choices=("hub", "csv", "generate"), required=True, help=sources)
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
    add_cache_option(build)
    _add_family_options(build)

    publish = actions.add_parser("publish", help="push a built folder to the Hub in one commit")
    publish.add_argument("folder", type=Path, help="of `air-hf data build`")
    publish.add_argument("repository", help="ORG/NAME")
    publish.add_argument("--public", action="store_true", help="a new repository is private without this")
    publish.add_argument("--revision", help="branch to commit to (default main)")
    add_timeout_option(publish)

    info = actions.add_parser("info", help="say what a built folder or a published repository holds")
    info.add_argument("source", help="folder, or ORG/NAME on the Hub")
    info.add_argument("--revision", help="of the repository")
    add_cache_option(info)
    check = "compare every file but provenance.json, and every row, with the SHA-256 recorded there"
    info.add_argument("--check", action="store_true", help=check)

    workers = {"generate": _generate, "build": _build, "publish": _publish, "info": _info}
    return lambda args: workers[args.action](args, options)


def _add_family_options(parser: argparse.ArgumentParser) -> tuple[set[str], set[str]]:
    """Adds what the families declare: options of a puzzle, and of its generator; returns both sets of names.

    A name that an earlier family has declared keeps that family's type.
    """
    puzzle_options, generator_options = set(), set()
    parser.add_argument("--max_seconds", type=float, help="give up generating after so long (default: never)")
    for family in all_families():
        try:
            generator = generator_class(family)
        except PuzzleError as error:
            warnings.warn(str(error), stacklevel=2)
            continue
        group = parser.add_argument_group(f"{family.family} puzzles")
        of_puzzle = {name: {"help": _help_of(name)} for name in family.option_names}
        of_generator = generator.options if generator else {}
        for name, declared in (of_puzzle | of_generator).items():
            if name not in puzzle_options | generator_options:
                group.add_argument(f"--{name}", **declared)
        puzzle_options |= of_puzzle.keys()
        generator_options |= of_generator.keys()
    return puzzle_options, generator_options


def _help_of(puzzle_option: str) -> str:
    """What a training command says of the option, too; a family of another package may have others."""
    field = RunRecipe.__dataclass_fields__.get(puzzle_option)
    return field.metadata["help"] if field else "of the puzzle"


def _given(args: argparse.Namespace, names) -> dict:
    return {name: value for name in sorted(names) if (value := getattr(args, name)) is not None}


def _generate(args: argparse.Namespace, options: tuple[set[str], set[str]]) -> None:
    of_puzzle, of_generator = (_given(args, names) for names in options)
    puzzle = get_puzzle(args.puzzle, **of_puzzle)
    others = check_new(args.output)
    split = generate_split(
        puzzle, args.train, args.test, args.seed, args.workers, max_seconds=args.max_seconds, **of_generator
    )
    write_split(args.output, puzzle, split, args.seed, of_generator)
    print(f"wrote {args.train} train and {args.test} test puzzles of {puzzle.name} to {args.output}")
    if others:
        print(f"{args.output} held {others} other files or folders, which are as they were")


def _build(args: argparse.Namespace, options: tuple[set[str], set[str]]) -> None:
    family = builder_of(args.family)
    known = {config.name: config for config in family.BUILDER_CONFIGS}
    names = args.configs.split(",") if args.configs else list(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"unknown configuration {', '.join(unknown)}; {args.family} has {', '.join(known)}")
    if len(set(names)) < len(names):
        raise ValueError(f"configs is {args.configs!r}, which names one more than once")
    for name, source in _OF_SOURCE.items():
        if getattr(args, name) is not None and args.source != source:
            raise ValueError(f"{name} is given with source {args.source}; it is for source {source}")
    if args.subsample_size is not None and all(known[name].subsample_size is None for name in names):
        raise ValueError(f"subsample_size is given, and what is built has all puzzles: {', '.join(names)}")
    fields = ("path", "revision", "puzzle", "seed", "min_difficulty", "on_error", "check_unique")
    fields += ("num_train", "num_test", "subsample_size", "max_seconds")
    overrides = _given(args, fields)
    for name, given in zip(("puzzle_options", "generator"), (_given(args, names) for names in options), strict=True):
        overrides |= {name: given} if given else {}
    builders = []
    for name in names:
        # A configuration of every puzzle stays one.
        kept = {n: v for n, v in overrides.items() if n != "subsample_size" or known[name].subsample_size is not None}
        builders.append(family(name, source=args.source, cache_dir=args.cache_dir, **kept))
    if (found := builders[0].puzzle.family) != args.family:
        raise ValueError(f"puzzle is {args.puzzle}, of family {found}; expected {args.family} puzzles")
    facts = build_folder(builders, args.output, args.license or _LICENSES[args.source], args.num_proc)
    _describe(str(args.output), facts)


def _publish(args: argparse.Namespace, _) -> None:
    facts = read_provenance(args.folder)  # a folder that is none of ours is refused here
    check_folder(args.folder, edited=("README.md",))  # the owner may have added to the card
    repository = resolve_repository(args.repository, timeout=args.timeout)
    name_repository(args.folder, repository)
    options = {"private": not args.public, "revision": args.revision, "timeout": args.timeout}
    commit = push_folder(args.folder, repository, "dataset", **options)
    print(f"published {args.folder} as {repository}, commit {commit}")
    print(f'load it with: datasets.load_dataset("{repository}", "{next(iter(facts))}")')


def _info(args: argparse.Namespace, _) -> None:
    folder = Path(args.source)
    if not folder.is_dir():
        names = None if args.check else ["provenance.json"]
        folder = fetch_folder(args.source, "dataset", args.revision, names, args.cache_dir)
    _describe(args.source, read_provenance(folder))
    if args.check:
        if check_folder(folder):
            print("every file and row is as it was built")
        else:
            print("every data file and row is as it was built; its record, of an early version, has no others")


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
