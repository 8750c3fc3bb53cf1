"""`python -m venvd` is the program `venvd`."""

from venvd._cli import main

main()
