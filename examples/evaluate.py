"""Scores a checkpoint on puzzles.

python examples/evaluate.py --checkpoint runs/quickstart/checkpoint --data data/sudoku-6x6/test.csv
"""

import argparse
import json
from pathlib import Path

import torch

from air_hf.data import DataError, load_published, load_puzzles
from air_hf.evaluation import evaluate_model
from air_hf.hub import CheckpointError, load_model, training_facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, help="folder or Hub repository")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", help="CSV file, or folder with test.csv")
    source.add_argument("--dataset", help="data set on the Hub, or a folder of `air-hf data build`; its test split")
    parser.add_argument("--dataset_config", help="configuration of the data set (default: its default one)")
    parser.add_argument("--limit", type=int, help="score a random sample of this many puzzles")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--max_segments", type=int, help="segments to run (default: the checkpoint's)")
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, help="also write the scores to this JSON file")
    args = parser.parse_args()
    try:
        model = load_model(args.checkpoint, dtype=args.dtype).to(args.device)
        if args.dataset:
            puzzles = load_published(args.dataset, args.dataset_config, "test", puzzle=model.config.puzzle)
        else:
            puzzles = load_puzzles(args.data, model.config.puzzle, split="test")
        if args.limit is not None:
            puzzles = puzzles.sample(args.limit, args.seed)
        trained = training_facts(args.checkpoint)
        result = evaluate_model(
            model, puzzles, args.batch_size, args.max_segments, step=trained.get("step"), ema=trained.get("ema")
        )
    except (CheckpointError, DataError, ValueError) as error:
        raise SystemExit(f"evaluate.py: error: {error}") from error
    print(result.table())
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        unfinished = args.output.with_name(args.output.name + ".part")
        unfinished.write_text(json.dumps(result.to_dict(), indent=2) + "\n", encoding="utf-8")
        unfinished.replace(args.output)


if __name__ == "__main__":
    main()
