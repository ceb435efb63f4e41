"""Skeletons and built-in datasets (YAML), topologies, and rules that derive regions and parts."""
