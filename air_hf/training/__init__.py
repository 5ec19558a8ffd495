"""Training: arguments, the step with its carry and optimisers, and checkpoints; the loop is `examples/train.py`."""

from air_hf.training.arguments import TrainingArguments, parse_arguments
from air_hf.training.backend import (
    attention_for,
    check_same_step,
    is_lost_process,
    let_collectives_end,
    process_handlers,
    should_compile,
)
from air_hf.training.checkpoint import load_checkpoint, save_checkpoint
from air_hf.training.facts import check_resumption, run_facts
from air_hf.training.interruption import EXIT_STATUS, Interruption
from air_hf.training.memory import measure_memory
from air_hf.training.records import RunRecords, read_curves
from air_hf.training.run_folder import RunFolder
from air_hf.training.trackers import new_run_id, start_tracker
from air_hf.training.trainer import NonFiniteError, Trainer

__all__ = [
    "EXIT_STATUS",
    "Interruption",
    "NonFiniteError",
    "RunFolder",
    "RunRecords",
    "Trainer",
    "TrainingArguments",
    "attention_for",
    "check_resumption",
    "check_same_step",
    "is_lost_process",
    "let_collectives_end",
    "load_checkpoint",
    "measure_memory",
    "new_run_id",
    "parse_arguments",
    "process_handlers",
    "read_curves",
    "run_facts",
    "save_checkpoint",
    "should_compile",
    "start_tracker",
]
