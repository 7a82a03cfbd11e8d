"""One file a question: measured, with provenance, as JSON."""
