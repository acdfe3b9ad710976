"""Learning from photos: what is trained here is small, and the models that it reads stay as they are."""
