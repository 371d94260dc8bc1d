"""`python -m stcn_ttt`, which torchrun can start."""

from stcn_ttt.cli import main

if __name__ == "__main__":
    main()
