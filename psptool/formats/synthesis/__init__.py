"""Moving bodies from a small kinematic model, written in the raw formats."""
