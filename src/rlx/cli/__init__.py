"""The command line `rlx`. Nothing imports this package; it alone draws on the terminal."""
