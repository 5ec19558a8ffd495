"""A tracker's run, found again when a run goes on."""

from accelerate import Accelerator


def start_tracker(accelerator: Accelerator, tracker: str, run_id: str, step: int, recipe: dict) -> None:
    """Starts the tracker that the accelerator was made with.

    Args:
        accelerator (`Accelerator`): what has it, as `log_with`.
        tracker (`str`): its name.
        run_id (`str`): the same one goes on with the same curve.
        step (`int`): where the run goes on; what TensorBoard has from later steps, before a kill, is not shown.
        recipe (`dict`): what the run shall be labelled with.
    """
    options = {
        "tensorboard": {"purge_step": step + 1} if step else {},
        "wandb": {"id": run_id, "resume": "allow"},
        "trackio": {"name": run_id, "resume": "allow"},
    }
    accelerator.init_trackers("air-hf", config=recipe, init_kwargs={tracker: options[tracker]})
