"""Concepts as words: names with types, vocabularies, the concept sets of bottlenecks, tables of them."""
