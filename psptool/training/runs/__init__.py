"""The run folder: configuration, log, weights, resume state and scores, by name."""
