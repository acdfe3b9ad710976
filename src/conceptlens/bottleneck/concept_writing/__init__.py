"""The concepts of a bottleneck: from a language model, and filtered."""
