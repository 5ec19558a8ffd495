"""What a machine could do and what training, evaluation and solving make of it: `air-hf benchmark`."""

from air_hf.benchmark.cases import SIZES, Case, case_of_checkpoint, case_of_recipe, case_of_size, random_boards
from air_hf.benchmark.report import table
from air_hf.benchmark.speed import measure

__all__ = ["SIZES", "Case", "case_of_checkpoint", "case_of_recipe", "case_of_size", "measure", "random_boards", "table"]
