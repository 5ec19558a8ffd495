"""Looking inside: what the latent states say while a puzzle is being solved."""

from air_hf.analysis.rollout import Rollout, decode_rollout

__all__ = ["Rollout", "decode_rollout"]
