"""Help text of the option ``--preset``: how long each preset trains. `psptool.schemas.recipes` has their values.

This module imports nothing, which keeps ``--help`` fast. Times of ``fast`` and ``best`` were measured on NW-UCLA.
"""

PRESET_HELP = (
    "fast (4 minutes on 2 CPU cores; default), best (13 minutes; 1 on an H100), "
    "paper (NTU: 45 minutes on an H100), demo."
)
ON_A_GPU = "This machine has a GPU: --preset best trains for more steps, in about a minute on an H100."
