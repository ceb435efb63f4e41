"""Opening a prepared dataset: the manifest, the clip table, and the arrays, clip by clip or whole."""

from __future__ import annotations
