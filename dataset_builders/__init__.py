"""Data sets: generators, one a family, and builders that put generated, published or own puzzles into a Hub folder."""
