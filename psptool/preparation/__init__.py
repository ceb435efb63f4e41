"""Raw clips to stored ones: tracks to persons, normalization, and the parallel pipeline with its report."""
