"""The labelled draw: by hash rank, so that anyone can rebuild it from names and a seed alone."""
