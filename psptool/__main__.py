"""``python -m psptool``, for torchrun."""

from psptool.cli.main import main

if __name__ == "__main__":
    main()
