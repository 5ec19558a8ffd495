"""Training, one run: checkpoints, the run's folder and records, interruption, processes, trackers."""

from air_hf.runs.checkpoint import load_checkpoint, save_checkpoint
from air_hf.runs.facts import check_resumption, run_facts
from air_hf.runs.folder import RunFolder
from air_hf.runs.interruption import EXIT_STATUS, Interruption
from air_hf.runs.processes import check_same_step, is_lost_process, let_collectives_end, process_handlers
from air_hf.runs.records import RunRecords, read_curves
from air_hf.runs.trackers import new_run_id, start_tracker

__all__ = [
    "EXIT_STATUS",
    "Interruption",
    "RunFolder",
    "RunRecords",
    "check_resumption",
    "check_same_step",
    "is_lost_process",
    "let_collectives_end",
    "load_checkpoint",
    "new_run_id",
    "process_handlers",
    "read_curves",
    "run_facts",
    "save_checkpoint",
    "start_tracker",
]
