"""``python -m semtok.cli``."""

from semtok.cli import main

main()
