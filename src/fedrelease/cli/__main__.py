"""``python -m fedrelease.cli``: the ``fedrelease`` program of this interpreter."""

from fedrelease.cli import main

if __name__ == "__main__":
    main()
