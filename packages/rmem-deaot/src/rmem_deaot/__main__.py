"""`python -m rmem_deaot`, which torchrun can start."""

from rmem_deaot.cli import main

if __name__ == "__main__":
    main()
