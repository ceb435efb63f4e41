"""The formats of PYSKL, CTR-GCN and ST-GCN, both ways."""
