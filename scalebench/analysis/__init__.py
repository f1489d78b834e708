"""Everything derived from records, as pure functions of them: step times, cells, scaling, precision, the DataFrame."""
