"""Built-in skeletons and datasets (YAML), keys of clips, topologies, and rules that derive regions and parts."""
