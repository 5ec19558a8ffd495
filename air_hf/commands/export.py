"""`air-hf export`: a checkpoint as ONNX graphs."""

import argparse
from collections.abc import Callable
from pathlib import Path

from air_hf.commands.place import add_place_options, place_of
from air_hf.data import load_puzzles
from air_hf.evaluation import evaluate_model
from air_hf.export import FORMATS, export_checkpoint, load_exported
from air_hf.hub import load_model, read_config
from air_hf.parsing import count
from air_hf.puzzles import puzzle_of


def configure(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], None]:
    parser.add_argument("checkpoint", help="checkpoint folder or Hub repository")
    add_place_options(parser)
    parser.add_argument("--format", choices=FORMATS, default="onnx", help="default onnx")
    parser.add_argument("--output", type=Path, required=True, help="folder; an older export in it is replaced")
    parser.add_argument("--attentions", action="store_true", help="the updates also give their attention maps")
    parser.add_argument("--int8", action="store_true", help="8-bit weights in the updates' matrix products")
    parser.add_argument(
        "--test_data", metavar="FILE", help="puzzles on which checkpoint and export are then compared, CSV"
    )
    parser.add_argument("--limit", type=count, help="compare on a random sample of so many, drawn with seed 0")
    return _export


def _export(args: argparse.Namespace) -> None:
    puzzles = None
    if args.limit is not None and args.test_data is None:
        raise ValueError("limit is given without test_data, of which it is a part")
    if args.test_data is not None:  # before the work of an export
        puzzles = load_puzzles(args.test_data, puzzle_of(read_config(args.checkpoint, **place_of(args))), split="test")
        puzzles = puzzles if args.limit is None else puzzles.sample(args.limit, 0)
    folder = export_checkpoint(
        args.checkpoint,
        args.output,
        format=args.format,
        attentions=args.attentions,
        int8=args.int8,
        **place_of(args),
    )
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"wrote {folder}: {size / 1e6:.1f} MB")
    if puzzles is not None:
        print(f"on {len(puzzles):,} puzzles of {puzzles.source}:")
        models = {"checkpoint": load_model(args.checkpoint, **place_of(args)), "export": load_exported(folder)}
        for name, model in models.items():
            result = evaluate_model(model, puzzles)
            print(f"{name:<11}{result.exact_accuracy:.1%} exact, {result.cell_accuracy:.2%} of cells")
