"""Looking inside: what the two latent states say and do while a puzzle is being solved, for every variant."""

from air_hf.analysis.roles import Roles, measure_roles, study_roles
from air_hf.analysis.tracing import Trace, iterate_traces, trace

__all__ = ["Roles", "Trace", "iterate_traces", "measure_roles", "study_roles", "trace"]
