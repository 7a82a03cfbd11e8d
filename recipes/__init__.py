"""What one runs: data, backbones, the training loop, comparisons and reports."""
