"""Trains UniReal: python train.py EXPERIMENT [--resume] [--output DIR] [--section.field VALUE ...]

python train.py debug
python train.py tiny --steps 1000 --optimizer.lr 5e-4
accelerate launch --num_processes 2 train.py tiny
"""

import sys

from unireal.arguments import failed

try:
    from unireal.training.cli import main
except ImportError as error:  # a package of the extra train
    sys.exit(failed(error))

if __name__ == "__main__":
    sys.exit(main())
