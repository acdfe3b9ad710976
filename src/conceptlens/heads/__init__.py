"""Linear heads on vectors of photos: how they are fitted, chosen, measured; class heads for a frozen network."""
