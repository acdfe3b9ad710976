"""CE-FAM (ICCV 2025): regions and contributions of named concepts, trained branches, neuron labels."""
