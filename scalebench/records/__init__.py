"""Raw facts: the record, the environment it was made in, and the store that keeps it."""
