"""`air-hf convert`: a published code's step file and its all_config.yaml into a checkpoint folder of ours."""

import argparse
from collections.abc import Callable
from pathlib import Path

from air_hf.reference import CONFIG_FILE, convert_checkpoint
from air_hf.variants import VARIANTS


def configure(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], None]:
    parser.add_argument("step_file", type=Path, help="what the published code saved, e.g. checkpoints/run/step_26041")
    parser.add_argument("output", type=Path, help="new folder")
    parser.add_argument(
        "--variant", help=f"one of {', '.join(VARIANTS)}, or a published name of one (default: as arch.name says)"
    )
    boards = parser.add_mutually_exclusive_group(required=True)
    boards.add_argument("--puzzle", help='what the model was trained on, e.g. "sudoku-9x9" or "maze-30x30"')
    boards.add_argument("--seq_len", type=int, help="cells of a board of no puzzle of ours; no tokenizer is written")
    parser.add_argument("--config", type=Path, help=f"the published configuration (default: {CONFIG_FILE} beside it)")
    return _convert


def _convert(args: argparse.Namespace) -> None:
    model = convert_checkpoint(
        args.step_file, args.output, args.variant, args.puzzle, args.config, seq_len=args.seq_len
    )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"wrote {args.output}: {model.config.puzzle or 'no puzzle of ours'}, {parameters:,} parameters")
