"""The processes of a training and the folder of its run."""

from __future__ import annotations

import atexit
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from conceptlens.io.atomic import write_json
from conceptlens.io.errors import InputError
from conceptlens.io.run_settings import changed_settings
from conceptlens.io.saved_folder import CONFIG
from conceptlens.training.checkpoint import FILE

if TYPE_CHECKING:
    from accelerate import Accelerator

RUN = "run.json"


def start_processes(device: str) -> tuple[Accelerator, str]:
    """Return the accelerator of this run, and the device of this process.

    Args:
        device: Device such as `cpu`, `cuda` or `mps`; several processes get one device each.

    Raises:
        InputError: Where accelerate or TensorBoard is not installed.
    """
    try:
        from accelerate import Accelerator
        from torch.utils import tensorboard  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError(f"training needs {error.name}: pip install 'conceptlens[fit]'") from None
    outside = torch.distributed.is_available() and torch.distributed.is_initialized()
    try:
        accelerator = Accelerator(cpu=device == "cpu", device_placement=False)
    except ValueError:  # this process has trained on another device before
        accelerator = Accelerator(device_placement=False)
    if accelerator.num_processes > 1 and not outside:  # left open, the group can abort a process that ends
        atexit.register(_leave_group)
    many = accelerator.num_processes > 1 and device != "cpu"
    return accelerator, str(accelerator.device) if many else device


def _leave_group() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def claim_folder(
    folder: Path, configuration: dict[str, Any], resume: bool, accelerator: Accelerator, piece: str = "branch"
) -> bool:
    """Write `run.json` into the folder of a run.

    Args:
        folder: Folder of the run.
        configuration: Everything that decides the result; a resumed run has the same.
        resume: Whether a run that is there already may go on.
        accelerator: The processes, which wait for one another.
        piece: What the run makes, as error messages call it.

    Returns:
        Whether the run is already finished.

    Raises:
        InputError: Where the folder holds another run, or one that is not to be resumed.
    """
    file = folder / RUN
    trained = any(folder.glob(f"**/{FILE}")) or (folder / CONFIG).exists()
    known = read_json(file) if trained else None  # before the first checkpoint there is nothing to lose
    if known is not None and not resume:
        raise InputError(
            f"{folder} holds a run already; go on with it by resume=True (--resume), choose another "
            f"folder, or remove {folder} to begin anew"
        )
    changes = "" if known is None else changed_settings(known, configuration)
    if changes:
        raise InputError(
            f"the run in {folder} was another one: {changes}; give its settings or another folder, or remove {folder}"
        )
    if known is None and (folder / CONFIG).exists():
        raise InputError(f"{folder} holds a {piece} already; choose another folder")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        write_json(file, configuration)
        for left in folder.glob("**/.*.part"):  # what a killed process was writing
            left.unlink(missing_ok=True)
    accelerator.wait_for_everyone()
    return (folder / CONFIG).exists()


def read_json(file: Path) -> dict[str, Any] | None:
    """Return what a JSON file holds, nothing where there is none."""
    try:
        return json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"{file} cannot be read ({reason}); choose another folder") from None
    except ValueError:
        raise InputError(f"{file} is no JSON; delete it to begin anew, or choose another folder") from None
