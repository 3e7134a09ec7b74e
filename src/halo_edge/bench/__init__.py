"""Experiments that make the tables and plots in docs/."""
