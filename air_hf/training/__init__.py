"""Training, one step: recipe, learner, carry, optimisers, EMA. What touches files and processes is in `air_hf.runs`."""

from air_hf.training.backend import attention_for, precision_for
from air_hf.training.learner import Learner, NonFiniteError
from air_hf.training.memory import estimate_memory
from air_hf.training.recipe import Recipe

__all__ = ["Learner", "NonFiniteError", "Recipe", "attention_for", "estimate_memory", "precision_for"]
