"""Long runs over photos: what a run does with each batch, and the engines that do it here, in processes or on Ray."""
