"""Class activation maps: targets, rules, Finer-CAM."""
