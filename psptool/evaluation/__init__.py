"""Evaluation of trained runs: scores, tables, prediction, features and model export."""
