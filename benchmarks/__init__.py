"""Timing against the published implementation: benchmarks, not tests."""
