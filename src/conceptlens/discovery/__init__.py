"""Concepts without a name: directions that the cells of a set of photos share, found by factorisation."""
