"""LoCE (IJCV 2025): one vector for each image, concept and layer; runs over data sets, analysis of a store, pages."""
