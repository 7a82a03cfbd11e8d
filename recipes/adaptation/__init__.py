"""A network that is pretrained once, and adapted to another task: runs of claims about transfer."""
