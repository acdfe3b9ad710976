"""Measuring a concept bottleneck on a labelled set."""
