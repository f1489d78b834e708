"""Intervals, ratios and rankings: pure functions of numbers."""
