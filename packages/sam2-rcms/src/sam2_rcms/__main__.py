"""`python -m sam2_rcms`, which torchrun can start."""

from sam2_rcms.cli import main

if __name__ == "__main__":
    main()
