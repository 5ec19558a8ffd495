"""`air-hf solve`: one board drawn, or a file of boards solved into another, which the same command completes."""

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import PartialState

from air_hf.commands.place import add_place_options, add_puzzle_option, device, place_of
from air_hf.files import sole_writer
from air_hf.hub import CheckpointError, checkpoint_for, load_model, load_tokenizer
from air_hf.hub.loading import weights_sha256
from air_hf.parsing import count
from air_hf.puzzles import Puzzle, infer_puzzle, puzzle_of
from air_hf.puzzles.drawing import print_boards
from air_hf.puzzles.reading import DataError
from air_hf.solving import SolveConfig, SolvingEngine, make_engine
from air_hf.solving.files import FileWork
from air_hf.solving.options import add_options, config_of, describe
from air_hf.solving.results import verdict
from air_hf.solving.stream import Question, Row, choose_puzzle, read_dataset, read_file, read_lines, read_question

_STREAM = "-"  # standard input as a file of boards, and standard output as one of results
_FILES = (".csv", ".parquet")
_STOPPED = 75  # exit status: stopped and saved
_PATIENCE = timedelta(days=7)  # of processes that are done with those that are not


def configure(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    parser.epilog = (
        "Exit status: 0 if every board was solved validly, 1 if some were not, 2 for bad input, 75 if stopped. "
        "On several processes: accelerate launch --num_processes N -m air_hf.cli solve ...; on CPUs: torchrun "
        "--nproc_per_node N -m air_hf.cli solve ..."
    )
    source = "board as text, CSV or Parquet file with a column question, or - for standard input, a board a line"
    results = "CSV or Parquet file of the results, or -; rows it has are kept (default: x.solved.csv for x.csv)"
    parser.add_argument("boards", metavar="BOARD|FILE|-", nargs="?", help=source)
    parser.add_argument("--dataset", help="data set on the Hub, or a folder of one, to stream boards from")
    parser.add_argument("--dataset_config", help="its configuration (default: its default one)")
    parser.add_argument("--split", help="its split (default test)")
    model = "checkpoint folder, Hub repository, or a name (default: the one of this package that fits the first board)"
    parser.add_argument("--model", metavar="DIR_OR_REPO", help=model)
    add_puzzle_option(parser)
    add_place_options(parser)
    parser.add_argument("--output", type=Path, help=results)
    parser.add_argument("--batch_size", type=count, default=64, help="rollouts at a time (default 64)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="of weights (default: as saved)")
    parser.add_argument("--device", type=device, help="e.g. cpu, cuda:1 (default: an accelerator if there is one)")
    add_options(parser, mode="adaptive")
    parser.add_argument("--early_stop", action="store_true", help="short for --mode plain --early_exit trained")
    return _solve


def _solve(args: argparse.Namespace) -> int:
    if (args.boards is None) == (args.dataset is None):
        raise ValueError("give a board, a file or -, or else --dataset")
    if args.early_stop:
        if args.early_exit is not None:
            raise ValueError(f"--early_stop is --early_exit trained; --early_exit {args.early_exit} is given, too")
        if args.mode == "calibrated":
            raise ValueError("--early_stop is a mode of its own, and --mode calibrated is given, too")
        args.mode, args.early_exit = "plain", "trained"
    if args.output is not None and args.output.suffix.lower() not in ("", *_FILES):
        raise ValueError(f"--output is {args.output}; expected a name that ends in {' or '.join(_FILES)}")
    if args.dataset is not None:
        if args.output is None:
            raise ValueError("--dataset needs an --output")
        rows = read_dataset(args.dataset, args.dataset_config, args.split or "test", args.cache_dir)
        return _solve_rows(args, rows, f"data set {args.dataset}", _results_file(args.output), None)
    for name in ("dataset_config", "split"):
        if getattr(args, name) is not None:
            raise ValueError(f"--{name} is {getattr(args, name)}, but there is no --dataset whose it could be")
    if args.boards == _STREAM:
        if sys.stdin is None:
            raise ValueError("standard input is closed; there are no boards to read")
        return _solve_rows(args, read_lines(sys.stdin.fileno()), "standard input", _results_file(args.output), None)
    if os.path.isfile(args.boards):  # Path.is_file raises an error where a board is too long for a file's name
        return _solve_file(args, Path(args.boards))
    if os.path.isdir(args.boards) or os.sep in args.boards or args.boards.lower().endswith(_FILES):  # as no board does
        raise DataError(f"{args.boards} is no file; expected a board, a CSV file or -")
    return _solve_board(args)


def _load(args: argparse.Namespace, device: torch.device | None = None) -> tuple[SolvingEngine, Puzzle, SolveConfig]:
    """The engine of the options, and the puzzle it solves.

    Raises:
        CheckpointError: no checkpoint, or one that does not say what it solves.
        ValueError: options that contradict one another.
    """
    dtype = {} if args.dtype is None else {"dtype": args.dtype}
    model = load_model(args.model, args.puzzle, **place_of(args), **dtype)
    puzzle = puzzle_of(model.config)
    if puzzle is None:
        raise CheckpointError(
            f'{args.model}: config.json names no puzzle to check answers by; add it, e.g. "puzzle": "sudoku-9x9"'
        )
    load_tokenizer(args.model, model.config, **place_of(args))  # which checks that ids mean what the puzzle says
    config = config_of(args, model.solve_config, puzzle)
    model.to(args.device or device or PartialState().device)
    return make_engine(model, config, args.batch_size), puzzle, config


def _solve_board(args: argparse.Namespace) -> int:
    """Draws question and answer side by side."""
    if args.output is not None:
        raise ValueError("--output is for a file of boards, or -; one board is drawn")
    if args.model is None:
        args.puzzle = args.puzzle or infer_puzzle(args.boards).name
        args.model = checkpoint_for(args.puzzle)
    engine, puzzle, config = _load(args)
    question = read_question(puzzle, args.boards)
    found = next(engine.run([Question(question)]))
    question, answer = question.numpy().astype("uint8"), found.sequence.numpy().astype("uint8")
    error = puzzle.find_error(question, answer)
    confidence = torch.tensor(found.q_halt_logit).sigmoid().item()
    took = f"{found.num_segments} segment{'s' * (found.num_segments != 1)}"
    if found.num_calls > found.num_segments:
        took += f" of {found.num_calls} in {len(found.rollouts)} rollouts"
    print(
        f"{verdict(puzzle.rules) if error is None else f'not solved: {error}'}   (confidence {confidence:.1%}, {took})"
    )
    print_boards(
        [
            ("question", puzzle.draw_text(question, question)),
            ("the model's answer", puzzle.draw_text(answer, question, color=sys.stdout.isatty())),
        ]
    )
    print(describe(config))
    return 0 if error is None else 1


def _solve_file(args: argparse.Namespace, path: Path) -> int:
    output = _results_file(args.output or path.with_suffix(f".solved{path.suffix}"))
    if output is not None and output.resolve() == path.resolve():
        raise ValueError(f"--output is {output}, the file of boards itself; choose another")
    rows, total = read_file(path)
    return _solve_rows(args, rows, str(path), output, total)


def _results_file(output: Path | None) -> Path | None:
    """The file of results; None for standard output."""
    return None if str(output) == _STREAM else output


def _solve_rows(
    args: argparse.Namespace, rows: Iterator[Row | None], source: str, output: Path | None, total: int | None
) -> int:
    """Solves what `output` does not have yet and says how it went; to standard output if there is no `output`."""
    state = _processes(args)
    if state.num_processes > 1 and (args.boards == _STREAM or output is None):
        raise ValueError("standard input is read, and standard output written, by one process; name files")
    if args.model is None:
        if args.puzzle is None:
            args.puzzle, rows = choose_puzzle(rows, source)
        args.model = checkpoint_for(args.puzzle)
    work = FileWork(rows, source, output, total, state)
    try:
        with sole_writer(output) if output is not None and state.is_main_process else nullcontext():
            engine, puzzle, config = _load(args, state.device)
            work.check_how(
                {"model": str(args.model), "puzzle": puzzle.name,
                 "weights_sha256": weights_sha256(args.model, **place_of(args)),
                 "dtype": str(engine.model.dtype).removeprefix("torch."), "solve": dataclasses.asdict(config)}
            )  # fmt: skip
            tally, speed = work.solve(engine, puzzle)
    except KeyboardInterrupt:
        print("stopped" if output is None else f"stopped; the same command completes {output}", file=sys.stderr)
        return _STOPPED
    if state.is_main_process:
        if speed:
            print(f"{speed:,.1f} boards a second", file=sys.stderr)
        said = f"{tally.summary(puzzle.rules)}; {describe(config)}"
        # Standard output holds the results where there is no file of them.
        print(said if output is None else f"{said}; written to {output}", file=sys.stderr if output is None else None)
    # A launcher that sees one process fail ends the others; only the first one speaks for all.
    return 0 if tally.complete or not state.is_main_process else 1


def _processes(args: argparse.Namespace) -> PartialState:
    """This process among those that a launcher started.

    Where there is no accelerator it must be said that they are on the CPU: each would take itself for the only one.
    """
    on_cpu = not torch.accelerator.is_available() if args.device is None else args.device.type == "cpu"
    return PartialState(cpu=on_cpu, timeout=_PATIENCE)
