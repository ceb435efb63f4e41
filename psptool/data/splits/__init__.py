"""Label splits: clips ranked by a hash, so that a split can be reproduced from clip names and a seed."""
