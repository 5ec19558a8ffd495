"""A tracker's run, found again when a run goes on."""

import uuid


def new_run_id() -> str:
    """A name for a tracker's run; not from the run's seed, since two runs of one recipe shall not share a curve."""
    return uuid.uuid4().hex[:12]


def tracker_options(tracker: str, run_id: str) -> dict[str, dict]:
    """Options of `Accelerator.init_trackers` under which the same `run_id` goes on with the same curve.

    TensorBoard needs none: a run's folder is its curve.
    """
    options = {"wandb": {"id": run_id, "resume": "allow"}, "trackio": {"name": run_id, "resume": "allow"}}
    return {tracker: options[tracker]} if tracker in options else {}
