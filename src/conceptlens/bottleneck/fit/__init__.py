"""Fitting a concept bottleneck: locator, concept layer, head."""
