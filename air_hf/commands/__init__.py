"""One module a command of `air-hf`: `configure(parser)` adds the arguments and returns the worker."""
