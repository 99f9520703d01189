"""Runs one task of UniReal: python infer.py TASK --prompt TEXT [--canvas PATH] ... --output PATH

python infer.py edit --canvas examples/room.png --prompt "Make the red circle green." --output green.png
python infer.py --list-tasks
"""

import sys

from unireal.cli import main

if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names that it cannot show
    sys.exit(main())
