"""Texts as vectors: the encoders that share a space with images, and their cache."""
