"""The Hub: checkpoints loaded, cards written, folders published in one commit."""

from air_hf.hub.loading import (
    EVALUATION,
    TRAINING_FACTS,
    CheckpointError,
    PublishError,
    fetch_folder,
    load_model,
    push_folder,
    training_facts,
)

__all__ = [
    "EVALUATION",
    "TRAINING_FACTS",
    "CheckpointError",
    "PublishError",
    "fetch_folder",
    "load_model",
    "push_folder",
    "training_facts",
]
