"""Measures of a run on the test set, and their pictures."""
