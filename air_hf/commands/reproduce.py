"""`air-hf reproduce`: the paper's tables from a checkpoint, beside the paper's numbers."""

import argparse
from collections.abc import Callable, Collection
from pathlib import Path

from air_hf.analysis.study import PAPER_PARTS, load_study, run_study
from air_hf.analysis.tables import write_report
from air_hf.commands.place import add_place_options, add_puzzle_option, device, place_of
from air_hf.files import check_place
from air_hf.parsing import count, seed
from air_hf.recipes import recipe_tasks


def configure(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    add_source_arguments(parser, puzzles=1000)
    parser.add_argument("--task", choices=recipe_tasks(), required=True, help="which of the paper's two tasks")
    return _reproduce


def add_source_arguments(parser: argparse.ArgumentParser, puzzles: int) -> None:
    """What `analyze` and `reproduce` both take."""
    data = "CSV file, or folder with test.csv (default, for 9x9 Sudoku and 30x30 mazes: the paper's data, from the Hub)"
    where = "segments, from 0, at which attention is looked at (default: 2 4 6 8 10 12 14 15, those there are)"
    parser.add_argument(
        "--checkpoint", required=True, metavar="DIR_OR_REPO", help="checkpoint folder or Hub repository"
    )
    add_puzzle_option(parser)
    add_place_options(parser)
    parser.add_argument("--data", help=data)
    parser.add_argument("--dataset", help="data set on the Hub, or a folder of `air-hf data build`, instead of --data")
    parser.add_argument("--dataset_config", help="its configuration (default: its default one)")
    parser.add_argument(
        "--puzzles", type=count, default=puzzles, help=f"how many, drawn with --seed (default {puzzles})"
    )
    parser.add_argument("--seed", type=seed, default=0, help="of the sample (default 0)")
    parser.add_argument("--output", type=Path, required=True, help="folder of report.md, report.json and figures")
    parser.add_argument("--max_segments", type=count, help="segments to run (default: the checkpoint's)")
    parser.add_argument("--attention_segments", type=int, nargs="+", help=where)
    parser.add_argument("--batch_size", type=count, default=64, help="puzzles at a time (default 64)")
    parser.add_argument("--device", type=device, help="e.g. cpu, cuda:1 (default: an accelerator if there is one)")


def run_parts(
    args: argparse.Namespace, parts: Collection[str], task: str | None = None, skip: bool = True, freeze_from: int = 0
):
    """Loads what the options name and runs instruments on it.

    Returns:
        the model, its puzzles, and the study.
    """
    check_place(args.output, "a folder")
    model, puzzles, facts = load_study(
        args.checkpoint, args.data, args.dataset, args.dataset_config, args.puzzles, args.seed, args.device, task,
        args.puzzle, **place_of(args),
    )  # fmt: skip
    study = run_study(
        model, puzzles, facts, parts, args.max_segments, args.attention_segments, args.batch_size, args.seed, skip,
        freeze_from,
    )  # fmt: skip
    return model, puzzles, study


def _reproduce(args: argparse.Namespace) -> int:
    _, _, study = run_parts(args, PAPER_PARTS, args.task)
    write_report(study, args.output, f"The paper's tables from {args.checkpoint}")
    print((args.output / "report.md").read_text(encoding="utf-8"))
    return 0
