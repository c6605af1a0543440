"""``python -m foveate demo | bench | info``."""

from foveate._cli import main

if __name__ == "__main__":
    raise SystemExit(main())
