"""Scores a checkpoint on puzzles: `air-hf evaluate` as a script.

python examples/evaluate.py --checkpoint runs/quickstart/checkpoint --data data/sudoku-6x6/test.csv
"""

import sys

from air_hf.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
