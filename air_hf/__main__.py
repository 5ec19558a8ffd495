"""`python -m air_hf` is the `air-hf` command."""

from air_hf.cli import main

main()
