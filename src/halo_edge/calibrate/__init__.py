"""Calibration: runs a model over text and makes its profile."""
