"""Data in Dolos' layout: files, checks, tensors, batches, and the built-in stand-in ``mini``."""
