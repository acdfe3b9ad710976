"""Local concept embeddings: one vector for each image, concept and layer (LoCE, IJCV 2025)."""
