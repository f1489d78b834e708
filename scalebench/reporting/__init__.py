"""Markdown tables and plots made from the analysis."""
