"""`python -m object_pursuit`, which torchrun can start."""

from object_pursuit.cli import main

if __name__ == "__main__":
    main()
