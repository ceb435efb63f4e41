"""Import from and export to the formats of PYSKL, CTR-GCN and ST-GCN."""
