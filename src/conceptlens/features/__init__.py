"""Cached features: what a frozen network sees in each photo of a set."""
