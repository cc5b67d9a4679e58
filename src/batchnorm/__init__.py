"""Batch normalization, complete."""
