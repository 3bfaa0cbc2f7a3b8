"""`python -m rlx` is the command `rlx`."""

from rlx.cli.entry import main

if __name__ == "__main__":
    main()
