"""Preparation of raw recordings: selecting persons, normalizing, and writing the dataset and its report in parallel."""
