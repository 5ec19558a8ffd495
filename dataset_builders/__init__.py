"""Puzzle generators, and the command that writes generated train and test sets; needs only `air_hf.puzzles`."""
