"""Measures speed, as the ratio of two measurements in one run; not in tests."""
