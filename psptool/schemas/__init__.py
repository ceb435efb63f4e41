"""Pydantic models of every artefact, one file each; the JSON Schemas in the top-level ``schemas/`` come from them."""
