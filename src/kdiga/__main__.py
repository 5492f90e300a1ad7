"""``python -m kdiga``, for launchers that start modules."""

from kdiga.cli import main

if __name__ == "__main__":
    main()
