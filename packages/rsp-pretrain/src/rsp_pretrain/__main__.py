"""`python -m rsp_pretrain`, which torchrun can start."""

from rsp_pretrain.cli import main

if __name__ == "__main__":
    main()
