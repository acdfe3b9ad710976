"""Anybody's maps measured in one call: against masks, a data set with masks, or a network."""
