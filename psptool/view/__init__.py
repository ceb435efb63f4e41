"""HTML pages and images: player, contact sheet, attention maps, report of a run, comparison of runs."""
