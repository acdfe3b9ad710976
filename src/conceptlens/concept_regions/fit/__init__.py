"""Training of a CE-FAM branch: the same crops for two networks."""
