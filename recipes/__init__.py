"""Programs: data, backbones, the training loop, comparisons and reports."""
