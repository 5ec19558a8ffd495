"""`air-hf calibrate`: chooses a checkpoint's q_halt threshold on given puzzles and stores it with the checkpoint."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from air_hf.commands.place import add_device_option, add_place_options, place_of
from air_hf.data import load_puzzles
from air_hf.evaluation import bare_name
from air_hf.files import check_place, write_text
from air_hf.hub import load_model
from air_hf.modeling.solving_air import SOLVE_CONFIG, SolveConfig
from air_hf.parsing import count, seed, share
from air_hf.puzzles import puzzle_of
from air_hf.solving.calibration import Calibration, calibrate, draw_calibration, run_segments

CURVE = "calibration.png"


def configure(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    parser.add_argument("--model", required=True, metavar="DIR_OR_REPO", help="checkpoint folder or Hub repository")
    add_place_options(parser)
    parser.add_argument("--data", required=True, help="CSV file of puzzles with answers, or a folder with test.csv")
    parser.add_argument("--limit", type=count, help="a random sample of this many of them")
    parser.add_argument("--seed", type=seed, default=0, help="of the sample")
    parser.add_argument("--max_segments", type=count, help="segments without an exit (default: the checkpoint's)")
    tolerance = "share of the puzzles that an early exit may lose, or trust a wrong answer of (default 0)"
    parser.add_argument("--tolerance", type=share, default=0.0, help=tolerance)
    parser.add_argument("--batch_size", type=count, default=64, help="puzzles at a time (default 64)")
    add_device_option(parser)
    output = f"folder for {SOLVE_CONFIG} and images/{CURVE} (default: the checkpoint's)"
    parser.add_argument("--output", type=Path, help=output)
    return _calibrate


def _calibrate(args: argparse.Namespace) -> int:
    folder = args.output or Path(args.model)
    if args.output is None and not folder.is_dir():
        raise ValueError(f"{args.model} is no folder to store the choice in; give an --output")
    check_place(folder, "a folder")
    model = load_model(args.model, **place_of(args)).to(args.device)
    puzzles = load_puzzles(args.data, puzzle_of(model.config), split="test")
    if args.limit is not None:
        puzzles = puzzles.sample(args.limit, args.seed)
    puzzles.check_model(model.config)
    stored = model.solve_config
    max_segments = stored.max_segments if args.max_segments is None else args.max_segments
    if max_segments is None and stored.budget is not None:  # with which twice as many would be run
        max_segments = model.config.max_segments
    planned = replace(stored, max_segments=max_segments)  # refuses what contradicts it before anything runs
    found = calibrate(run_segments(model, puzzles, max_segments, args.batch_size), args.tolerance)
    config = replace(
        planned,
        # As it was measured: the first rollout without noise, from the fixed start.
        plain_first=stored.plain_first or stored.noise > 0 or stored.start != "fixed",
        early_exit="q_halt",
        patience=SolveConfig().patience,
        q_halt_threshold=round(found.threshold, 2),
        trusted_q_halt=round(found.trusted, 2),
    )
    folder.mkdir(parents=True, exist_ok=True)
    draw_calibration(found, f"{puzzles.puzzle.name}, {len(puzzles):,} puzzles", folder / "images" / CURVE)
    write_text(folder / SOLVE_CONFIG, config.to_json(**_facts(found, puzzles.source, len(puzzles), args.tolerance)))
    segments = len(found.accuracies_by_segment)
    print(f"{segments} segments:            exact {found.exact_without:.1%} of {len(puzzles):,} puzzles")
    print(f"q_halt > {found.threshold:<10.2f}       exact {found.exact:.1%} after {found.mean_segments:.2f} segments")
    print(f"q_halt > {found.trusted:<10.2f}       is trusted by the adaptive mode")
    print(f"the curve: {folder / 'images' / CURVE}; the choice: {folder / SOLVE_CONFIG}")
    return 0


def _facts(found: Calibration, source: str, puzzles: int, tolerance: float) -> dict:
    """What to store beside the choice; the puzzles' place without folders, which mean nothing elsewhere."""
    return {
        "data": bare_name(source),
        "puzzles": puzzles,
        "tolerance": tolerance,
        "exact_all_segments": found.exact_without,
        "exact": found.exact,
        "mean_segments": found.mean_segments,
    }
