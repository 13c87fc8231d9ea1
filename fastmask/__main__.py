"""``python -m fastmask``."""

from .cli import main

main()
