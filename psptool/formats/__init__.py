"""Files of other programs: raw recordings, exchange with other tools, and synthetic recordings."""
