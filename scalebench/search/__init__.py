"""Searches: what fits into memory, and what is fastest of it, found by real runs. See docs/search.md."""
