"""Twenty steps of some tiny models on as many processes as torchrun starts; the weights go to a folder.

ACCELERATE_USE_CPU=true torchrun --standalone --nproc_per_node 2 tests/support/distributed_steps.py FOLDER
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import save_file

from air_hf import AIRForPuzzleSolving, variant_config
from air_hf.data import PuzzleSet, PuzzleStream
from air_hf.dataset_builders.generate import make_generator
from air_hf.evaluation import evaluate_model
from air_hf.puzzles import get_puzzle
from air_hf.runs.processes import let_collectives_end, process_handlers
from air_hf.training import Learner, Recipe

STEPS, SLOTS, PUZZLE_IDS = 20, 16, 5
CASES = {"q_learning": ("Lx_H", 1), "halt_only": ("trm-att", 1), "puzzle_ids": ("L_H2x", PUZZLE_IDS),
         "kept_token": ("L2x_H2x-prepend-keep", PUZZLE_IDS)}  # fmt: skip
TINY = {"vocab_size": 6, "seq_len": 16, "hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1,
        "h_cycles": 2, "l_cycles": 2, "max_segments": 4, "puzzle": "sudoku-4x4"}  # fmt: skip


def run(puzzles: PuzzleSet, variant: str, puzzle_ids: int, accumulation_steps: int) -> Learner:
    stream = PuzzleStream(puzzles, SLOTS, seed=0, augment=True)
    recipe = Recipe(batch_size=SLOTS, max_steps=100, compile="off", halt_exploration_prob=0.0, state_noise=0.1,
                             accumulation_steps=accumulation_steps, warmup_steps=5)  # fmt: skip
    config = variant_config(variant, **TINY, num_puzzle_ids=puzzle_ids)
    accelerator = Accelerator(cpu=True, mixed_precision="no", kwargs_handlers=process_handlers(config))
    torch.set_num_threads(1)  # the accelerator takes all cores, for every process
    torch.manual_seed(0)
    model = AIRForPuzzleSolving(config)
    learner = Learner(model, recipe, accelerator)
    for step in range(STEPS):
        rank, world = accelerator.process_index, accelerator.num_processes
        batch = stream.batch(step, rank, world)
        ids = np.random.default_rng([7, step]).integers(puzzle_ids, size=SLOTS)
        batch["puzzle_ids"] = torch.from_numpy(ids)[rank * SLOTS // world : (rank + 1) * SLOTS // world]
        learner.train_step(batch)
    return learner


def main() -> None:
    folder = Path(sys.argv[1])
    puzzle = get_puzzle("sudoku-4x4")
    puzzles = PuzzleSet(puzzle, *make_generator(puzzle).draw(50, np.random.default_rng(0)), "generated")
    for name, (variant, puzzle_ids) in CASES.items():
        for accumulation_steps in (1, 2):
            learner = run(puzzles, variant, puzzle_ids, accumulation_steps)
            scores = evaluate_model(learner.model, puzzles, batch_size=7, accelerator=learner.accelerator)
            if learner.accelerator.is_main_process:
                scores = {"processes": learner.accelerator.num_processes} | scores.to_dict()
                weights = {key: tensor.contiguous() for key, tensor in learner.model.state_dict().items()}
                save_file(weights, folder / f"{name}-{accumulation_steps}.safetensors")
                (folder / f"{name}-{accumulation_steps}.json").write_text(json.dumps(scores))
            learner.accelerator.free_memory()
            let_collectives_end(learner.accelerator)


if __name__ == "__main__":
    main()
