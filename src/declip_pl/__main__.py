"""``python -m declip_pl``."""

from declip_pl.cli import main

if __name__ == "__main__":
    main()
