"""Local concept embeddings of a whole data set, in a stream: one forward pass a photo for all layers, into a store."""
