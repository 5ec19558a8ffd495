"""`air-hf analyze`: every instrument on a checkpoint; tables, figures, and an animation of both states."""

import argparse
from collections.abc import Callable
from importlib.util import find_spec

from air_hf.analysis.study import PARTS
from air_hf.analysis.tables import write_report
from air_hf.commands.reproduce import add_source_arguments, run_parts


def configure(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    add_source_arguments(parser, puzzles=200)
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, help="instruments (default: all that the checkpoint can have)"
    )
    parser.add_argument(
        "--freeze_from", type=int, default=0, metavar="SEGMENT", help="hold a state from it on (default 0: the start)"
    )
    parser.add_argument("--board", type=int, help="row, among the sampled puzzles, of the board in the pictures")
    parser.add_argument("--no_figures", action="store_true", help="tables only")
    return _analyze


def _analyze(args: argparse.Namespace) -> int:
    if not args.no_figures and find_spec("matplotlib") is None:
        raise ValueError(
            "matplotlib is not installed, which draws the figures; pip install air-hf[demo], or --no_figures"
        )
    if args.board is not None and not 0 <= args.board < args.puzzles:
        raise ValueError(f"--board is {args.board}; the puzzles studied are 0 to {args.puzzles - 1}")
    model, puzzles, study = run_parts(args, args.parts or PARTS, skip=args.parts is None, freeze_from=args.freeze_from)
    tables = write_report(study, args.output, f"Inside {args.checkpoint}")
    print("\n\n".join(table.markdown() for table in tables))
    if not args.no_figures:
        from air_hf.analysis.figures import draw_study  # matplotlib is needed here only

        for path in draw_study(model, puzzles, study, args.output, args.board):
            print(path)
    print(f"\nwritten to {args.output}")
    return 0
