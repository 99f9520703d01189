"""python -m unireal.demo [--model M] [--host H] [--port P] [--auth USER:PASSWORD]

Serves the page at http://127.0.0.1:7860 until it is interrupted.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time

from unireal.arguments import Parser, failed
from unireal.demo.engine import Engine
from unireal.demo.server import LOCAL, credentials, served
from unireal.model.folder import check_model_folder, find_model
from unireal.plugins import add_plugin_argument


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 interrupted, 2 bad input."""
    options = _parser().parse_args(arguments)
    try:
        check_model(options.model)
        auth = None if options.auth is None else credentials(options.auth)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a service is stopped so; what it wrote goes away
        engine = Engine(options.model, options.device, options.dtype)
        with served(engine, options.host, options.port, auth) as address:
            print(f"serving {options.model} at {address}", flush=True)
            if auth is None and options.host not in LOCAL:
                print("warning: whoever reaches this machine can use the page; add --auth", file=sys.stderr, flush=True)
            while True:
                time.sleep(3600)  # on Windows, Ctrl-C does not end the wait for a lock or an event
    except KeyboardInterrupt:
        return 0
    except (ValueError, OSError, ImportError) as error:
        return failed(error)
    return 0


def check_model(model: str) -> None:
    """Before anything is served; a hub id is looked up when it is loaded. Raises ValueError."""
    path = find_model(model, hub=True)
    if path.exists():
        check_model_folder(path)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m unireal.demo", description="A web page to try a model on.", allow_abbrev=False)
    parser.add_argument("--model", default="unireal-tiny", metavar="M", help="unireal-tiny, a folder or a hub id")
    parser.add_argument("--host", default="127.0.0.1", metavar="H", help="address to serve at (default: this machine)")
    parser.add_argument("--port", type=int, default=7860, metavar="P", help="default: 7860; 0 is any that is free")
    parser.add_argument("--auth", metavar="USER:PASSWORD", help="who may enter; or a file with such lines")
    parser.add_argument("--device", default="auto", metavar="D", help="cpu, cuda, mps (default: cuda if there is one)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    add_plugin_argument(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
