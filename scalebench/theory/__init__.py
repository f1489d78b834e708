"""Formulas for FLOPs, bytes and memory: pure functions, each with its source."""
