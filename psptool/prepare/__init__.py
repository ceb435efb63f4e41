"""Raw clips to stored ones: body tracks to persons, normalization, and the parallel pipeline with its report."""
