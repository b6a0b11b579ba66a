"""``python -m hlfd``: the command line."""

from hlfd.cli import main

if __name__ == "__main__":
    main()
