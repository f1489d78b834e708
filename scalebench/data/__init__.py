"""Real and synthetic samples by global index, and the sampler that hands them to ranks."""
