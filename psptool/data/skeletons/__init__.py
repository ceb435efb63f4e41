"""Facts: joints, bones and groups of the topologies; class names, clip names and protocols of the datasets."""
