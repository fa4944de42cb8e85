"""Pickled tensors made safetensors: read without running what else a pickle may hold."""

import os
import re
import shutil
from collections.abc import Collection
from pathlib import Path

from al_dagster.core.errors import UserError
from al_dagster.core.files import move_whole
from al_dagster.core.memory import is_out_of_memory
from al_dagster.vision.weights import require_foundation_extra

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
"""Endings of files that are pickles, or may be."""

SHARDS = "pytorch_model"
"""How the weights are named where they are several files, or lie beside other pickles."""

CONVERTED = "model.safetensors"


def choose_pickles(names: Collection[str], where: str) -> list[str]:
    """Which pickles are the weights: those with transformers' name, or the only one.

    Raises:
        UserError: it cannot be told.
    """
    shards = sorted(name for name in names if name.startswith(SHARDS))
    if not shards and len(names) > 1:
        raise UserError(
            f"{where} holds several pickles ({', '.join(sorted(names))}); leave the one with the weights, named "
            f"{SHARDS}.bin"
        )
    return shards or list(names)


def convert_pickles(folder: Path) -> None:
    """Replace the pickles of a folder by one safetensors file; nothing happens where there are none.

    The new file is there before the pickles go, so that a process that is killed can do it again.

    Raises:
        UserError: a pickle is damaged, holds more than tensors by name, or needs more memory than there is.
        OSError: a file cannot be read or written.
    """
    pickles = sorted(path for path in folder.iterdir() if path.name.endswith(PICKLES))
    if not pickles:
        return
    require_foundation_extra()
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    for path in pickles:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except OSError:
            raise
        except Exception as error:
            # A damaged pickle fails wherever the damage leads the loader.
            if is_out_of_memory(error):
                raise UserError(f"{path.name} needs more memory than there is to be loaded, or is damaged") from None
            path.unlink()
            said = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(
                f"{path.name} is not loaded, since it is damaged or holds more than tensors: {said}"
            ) from None
        named = isinstance(state, dict) and all(isinstance(value, torch.Tensor) for value in state.values())
        if not named:
            path.unlink()
            raise UserError(f"{path.name} holds no tensors by name, so it is no state of a model in transformers")
        # Tied weights share memory, which safetensors refuses.
        tensors |= {str(name): value.detach().clone().contiguous() for name, value in state.items()}
    partial = folder / f".{CONVERTED}"
    try:
        save_file(tensors, partial, metadata={"format": "pt"})
    except SafetensorError as error:
        raise _error_of_the_system(error) from None
    shutil.copymode(pickles[0], partial)
    move_whole(partial, folder / CONVERTED)
    for path in (*pickles, *folder.glob(f"{SHARDS}*.index.json")):
        path.unlink()


def _error_of_the_system(error: Exception) -> Exception:
    """The error of the operating system of which safetensors tells in words alone; any other error as it is."""
    named = re.search(r"\(os error (\d+)\)", str(error))
    return error if named is None else OSError(int(named[1]), os.strerror(int(named[1])))
