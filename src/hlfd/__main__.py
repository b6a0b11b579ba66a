"""``python -m hlfd``."""

from hlfd.cli import main

main()
