"""HTML pages and terminal tables, whatever stands in them."""
