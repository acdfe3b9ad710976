"""The concepts of a bottleneck, asked of a language model and filtered."""
