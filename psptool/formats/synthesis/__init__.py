"""Synthetic recordings from a small kinematic body model, written in the raw formats."""
