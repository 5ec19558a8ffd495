"""What a training step costs against batch, board and width, and a rollout against segments, beside what FLOPs predict.

python benchmarks/scaling.py [--mixer attention] [--seconds 2] [--output scaling.json]

One thing is changed at a time, from 9x9 boards, width 128, two layers, one L- and one H-update, batch 32. Predicted is
the time of that model times the ratio of counted FLOPs (`AIRConfig.estimate_flops`).
"""

import argparse
import json
from pathlib import Path
from typing import Any

from air_hf.benchmark import Case, measure, random_boards
from air_hf.files import write_text
from air_hf.puzzles import get_puzzle
from air_hf.run_recipe import RunRecipe
from air_hf.variants import variant_config

BASE = {"batch_size": 32, "puzzle": "sudoku-9x9", "hidden_size": 128, "max_segments": 16}
CHANGES = {
    "batch_size": [8, 128, 256],
    "puzzle": ["sudoku-4x4", "sudoku-6x6", "sudoku-16x16"],
    "hidden_size": [64, 256, 512],
    "max_segments": [4, 64],
}


def measured(mixer: str, seconds: float, batch_size: int, puzzle: str, **fields) -> dict[str, Any]:
    """Milliseconds and GFLOP of a training step and of a rollout by which a batch is solved."""
    board = get_puzzle(puzzle)
    config = variant_config(
        "Lx_H", vocab_size=board.vocab_size, seq_len=board.num_cells, puzzle=puzzle, mixer=mixer, halting="halt_only",
        num_attention_heads=fields["hidden_size"] // 32, num_hidden_layers=2, h_cycles=1, l_cycles=1,
        position_embedding="none" if mixer == "mlp" else "rotary", **fields,
    )  # fmt: skip
    case = Case(config, RunRecipe(batch_size=batch_size, mixed_precision="auto"), random_boards(board))
    result = measure(case, seconds)
    step, segment = config.estimate_flops(batch_size, with_gradient=True), config.estimate_flops(batch_size)
    return {
        "step_ms": result["training"]["ms"]["median"], "step_gflop": step / 1e9,
        "share_of_peak": result["training"]["share_of_peak"],
        "rollout_ms": result["solving"]["ms"]["median"], "rollout_gflop": segment * config.max_segments / 1e9,
    }  # fmt: skip


def row(change: str, found: dict[str, Any], base: dict[str, Any]) -> str:
    cells = [change]
    for part in ("step", "rollout"):
        predicted = base[f"{part}_ms"] * found[f"{part}_gflop"] / base[f"{part}_gflop"]
        ratio = found[f"{part}_ms"] / predicted
        cells += [f"{found[f'{part}_gflop']:.1f}", f"{found[f'{part}_ms']:.1f}", f"{predicted:.1f}", f"{ratio:.2f}"]
    return f"| {' | '.join(cells)} | {found['share_of_peak']:.0%} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mixer", default="attention", choices=["attention", "mlp"])
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement (default 2)")
    parser.add_argument("--output", type=Path, help="JSON file for all numbers")
    args = parser.parse_args()
    cases = {"base": BASE} | {
        f"{field} {value}": BASE | {field: value} for field, values in CHANGES.items() for value in values
    }
    results = {}
    print("| | step: GFLOP | ms | predicted | ratio | rollout: GFLOP | ms | predicted | ratio | step, of the peak |")
    print("| --- " * 10 + "|")
    for name, fields in cases.items():
        results[name] = measured(args.mixer, args.seconds, **fields)
        print(row(name, results[name], results["base"]), flush=True)
        if args.output:
            write_text(args.output, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
