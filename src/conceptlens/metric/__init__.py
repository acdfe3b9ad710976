"""Metrics, sorted by what they need: a map and a mask (`locate`)."""
