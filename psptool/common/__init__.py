"""Shared by all packages: errors, atomic writing, paths, facts about the machine."""
