"""A network looked at once: forward passes, layouts, preprocessing, layers, observations, text encoders."""
