"""Fixed heads in the place of learned ones, in networks that are trained already."""
