"""Task weighting strategies; ``recipes.training.weighting`` has their names."""
