"""`python -m venvd` is the program `venvd`."""

from venvd.cli import main

main()
