"""Measuring explanations where the truth is known: methods to compare, rows of results, and their summary."""
