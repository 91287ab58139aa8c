"""Run the command `melzarr` as `python -m melzarr`."""

from melzarr.cli import main

if __name__ == "__main__":
    main(prog_name="melzarr")
