"""Fixtures of the command-line tests, which run commands in an empty folder."""

from tests.cli.conftest import psptool, recordings, small

__all__ = ["psptool", "recordings", "small"]
