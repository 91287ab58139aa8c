"""`python -m melzarr` is the command `melzarr`."""

from melzarr.cli import main

if __name__ == "__main__":
    main(prog_name="melzarr")
