"""The run folder: configuration, log, weights, and the checkpoint of an unfinished run."""
