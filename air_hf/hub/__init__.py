"""The Hub: checkpoints loaded, cards written, folders published in one commit."""

from air_hf.hub.loading import (
    EVALUATION,
    TRAINING_FACTS,
    load_model,
    load_tokenizer,
    read_config,
    training_facts,
)
from air_hf.hub.shipped import checkpoint_for, resolve_checkpoint, shipped_checkpoints
from air_hf.hub.transfer import PublishError, fetch_folder, push_folder, resolve_repository
from air_hf.modeling import CheckpointError

__all__ = [
    "EVALUATION",
    "TRAINING_FACTS",
    "CheckpointError",
    "PublishError",
    "checkpoint_for",
    "fetch_folder",
    "load_model",
    "load_tokenizer",
    "push_folder",
    "read_config",
    "resolve_checkpoint",
    "resolve_repository",
    "shipped_checkpoints",
    "training_facts",
]
