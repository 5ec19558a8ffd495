"""What this machine could do, and what training, evaluation and solving make of it: `air-hf benchmark`.

python benchmarks/speed.py [--sizes paper-sudoku,paper-maze] [--output speed.json]
"""

import sys

from air_hf.cli import main

if __name__ == "__main__":
    main(["benchmark", *sys.argv[1:]])
