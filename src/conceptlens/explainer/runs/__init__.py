"""Explaining many photos into a store: which run it is, what each batch gives, and the run itself."""
