"""Weights that come with the package, each a folder in Hub format; `air_hf.hub.shipped` finds them by name."""
