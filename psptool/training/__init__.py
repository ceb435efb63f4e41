"""Training loop, optimizer, mean teacher, checkpoints, run folders and profiling."""
