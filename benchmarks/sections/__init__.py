"""What the page of benchmarks shows of each result."""
