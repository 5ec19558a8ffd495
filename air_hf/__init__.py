"""Recurrent puzzle solvers (AIR, HRM, TRM) in the Hugging Face ecosystem."""

from transformers import AutoConfig, AutoModel
from transformers.pipelines import PIPELINE_REGISTRY

from air_hf.modeling import AIRConfig, AIRForPuzzleSolving, AIRModel, PuzzleSolvingPipeline
from air_hf.variants import variant_config

__version__ = "0.1.0"

AutoConfig.register(AIRConfig.model_type, AIRConfig, exist_ok=True)
AutoModel.register(AIRConfig, AIRForPuzzleSolving, exist_ok=True)
PIPELINE_REGISTRY.register_pipeline("puzzle-solving", PuzzleSolvingPipeline, pt_model=AutoModel)
# Saved checkpoints carry their code, so AutoModel loads them where this package is not installed.
AIRConfig.register_for_auto_class()
AIRForPuzzleSolving.register_for_auto_class("AutoModel")

__all__ = ["AIRConfig", "AIRForPuzzleSolving", "AIRModel", "PuzzleSolvingPipeline", "variant_config"]
