"""`hone-trainer` on a machine that is said to have a GPU, as far as Unsloth is concerned."""

from hone_trainer import unsloth_backend
from hone_trainer.__main__ import main

if __name__ == "__main__":
    unsloth_backend._sees_gpu = lambda: True
    main()
