"""`air-hf evaluate`: scores of a checkpoint on puzzles."""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from air_hf.commands.place import add_device_option, add_place_options, add_puzzle_option, place_of
from air_hf.evaluation import evaluate_model
from air_hf.files import check_place, write_text
from air_hf.hub import load_model, training_facts
from air_hf.parsing import count, seed
from air_hf.puzzles import puzzle_of
from air_hf.runs.data import load_files, load_repository
from air_hf.solving import evaluate_solving
from air_hf.solving.options import add_options, config_of, describe, is_plain


def configure(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], None]:
    parser.add_argument("--checkpoint", required=True, help="folder or Hub repository")
    add_puzzle_option(parser)
    add_place_options(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", help="CSV file, or folder with test.csv")
    source.add_argument("--dataset", help="data set on the Hub, or a folder of `air-hf data build`; its test split")
    parser.add_argument("--dataset_config", help="configuration of the data set (default: its default one)")
    parser.add_argument("--dataset_revision", help="branch, tag or commit of the data set (default: main)")
    parser.add_argument("--limit", type=count, help="score a random sample of this many puzzles")
    parser.add_argument("--seed", type=seed, default=0, help="of sample, noise and images (default %(default)s)")
    parser.add_argument("--max_segments", type=count, help="segments to run (default: the checkpoint's)")
    parser.add_argument("--batch_size", type=count, default=256, help="boards at a time (default %(default)s)")
    add_options(parser, mode="plain", without=("max_segments", "seed"))
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32",
                        help="what is calculated in (default float32)")  # fmt: skip
    add_device_option(parser)
    parser.add_argument("--output", type=Path, help="also write the scores to this JSON file")
    return _evaluate


def _evaluate(args: argparse.Namespace) -> None:
    place = place_of(args)
    if args.output is not None:
        check_place(args.output)
    model = load_model(args.checkpoint, args.puzzle, dtype=args.dtype, **place).to(args.device)
    puzzle = puzzle_of(model.config)
    if args.dataset:
        where = (args.dataset_config, "test", args.dataset_revision)
        source = load_repository(args.dataset, *where, puzzle, cache_dir=args.cache_dir)
    else:
        source = load_files(args.data, puzzle, "test")
    source = source.sample(args.limit, args.seed)
    config = config_of(args, model.solve_config, puzzle)
    trained = training_facts(args.checkpoint, **place)
    if not is_plain(config):
        scores = evaluate_solving(model, source.puzzles, config, args.batch_size)
        print(f"{scores.table()}\n{describe(config)}")
        if args.output:
            how = {"puzzle": source.puzzles.puzzle.name, "precision": args.dtype, "step": trained.get("step")}
            record = scores.to_dict() | how | {"solve": asdict(config)} | source.origin()
            write_text(args.output, json.dumps(record, indent=2) + "\n")
        return
    result = evaluate_model(
        model, source.puzzles, args.batch_size, config.max_segments, step=trained.get("step"), ema=trained.get("ema"),
        origin=source.origin(),
    )  # fmt: skip
    print(f"{result.table()}\n{describe(config)}")
    if args.output:
        write_text(args.output, json.dumps(result.to_dict(), indent=2) + "\n")
