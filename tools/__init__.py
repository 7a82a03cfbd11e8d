"""Scripts that keep the project itself in order."""
