"""A trained run as a function from clips to scores."""
