"""Launching ranks, the one loop, and the runner that turns specs into records."""
