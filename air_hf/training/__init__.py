"""Training, one step: arguments, carry, optimisers, EMA. What touches files and processes is in `air_hf.runs`."""

from air_hf.training.arguments import TrainingArguments, parse_arguments
from air_hf.training.backend import attention_for, should_compile
from air_hf.training.memory import measure_memory
from air_hf.training.trainer import NonFiniteError, Trainer

__all__ = [
    "NonFiniteError",
    "Trainer",
    "TrainingArguments",
    "attention_for",
    "measure_memory",
    "parse_arguments",
    "should_compile",
]
