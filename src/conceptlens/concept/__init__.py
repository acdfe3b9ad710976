"""Concepts: what they are called, where a model sees them, and how much they count."""
