"""Concept bottlenecks whose concepts sit at a place: Loc-CBM, and the models it is compared with."""
