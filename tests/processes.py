"""Several training processes on one CPU, as `accelerate launch --config_file FILE` starts them, but forked from a
test, so that nothing is imported again.
"""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable
from pathlib import Path

import torch.multiprocessing
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import patch_environment
from accelerate.utils.launch import prepare_multi_gpu_env

CONFIGS = Path(__file__).parent.parent / "configs"

# Autograd looks for devices in its first pass: after torch.compile it finds a CUDA that is not there, starts threads
# for it, and processes that are forked from then on cannot train.
torch.ones(1, requires_grad=True).sum().backward()


def forget_accelerate() -> None:
    """accelerate keeps its state in the process; after this a new Accelerator may differ."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def launch(config_file: str, processes: int, function: Callable[..., None], *arguments: object) -> None:
    """Calls function(*arguments) in so many processes with the environment that the launcher makes of the file."""
    parser = launch_command_parser()
    options = parser.parse_args(
        ["--config_file", str(CONFIGS / config_file), "--num_processes", str(processes), "train.py"]
    )
    options, *_ = _validate_launch_command(options)
    environment = {k: v for k, v in prepare_multi_gpu_env(options).items() if os.environ.get(k) != v}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with patch_environment(**environment):
        os.environ |= {"ACCELERATE_USE_CPU": "true", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        os.environ |= {"WORLD_SIZE": str(processes), "GLOO_SOCKET_IFNAME": "lo"}
        try:
            torch.multiprocessing.start_processes(
                _child, (processes, function, arguments), processes, start_method="fork"
            )
        finally:
            for name in ("ACCELERATE_USE_CPU", "MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "GLOO_SOCKET_IFNAME"):
                os.environ.pop(name, None)


def _child(rank: int, processes: int, function: Callable[..., None], arguments: tuple) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(processes)}
    forget_accelerate()
    try:
        function(*arguments)
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        PartialState().destroy_process_group()
