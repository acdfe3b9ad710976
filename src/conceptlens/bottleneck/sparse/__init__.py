"""Elastic-net multinomial regression on concepts, with a proof of how good each solution is."""
