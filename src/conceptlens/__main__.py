"""`python -m conceptlens`."""

from conceptlens.cli import main

main()
