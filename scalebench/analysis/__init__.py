"""Pure functions from records to what people ask: throughput, speedup, efficiency, rankings."""
