"""Reading networks of transformers from folders, whole or not at all."""

from pathlib import Path
from typing import Any

import torch

from al_dagster.core.errors import UserError


def read_network(kind: Any, folder: Path) -> Any:
    """The network of a checkpoint, in float32 on the CPU, in evaluation mode.

    What a checkpoint lacks, transformers would fill with random numbers. What it has besides, such as the memory of a
    video model, is left out.

    Args:
        kind: a class of transformers.
        folder: config.json and model.safetensors, as published for transformers.

    Raises:
        UserError: the folder has no checkpoint that can be read, or one that lacks weights of the network.
    """
    try:
        network, found = kind.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            # It would raise an error that does not say for what; all that does not fit is refused below.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (OSError, ImportError) as error:
        raise UserError(f"{folder}: the checkpoint cannot be loaded: {str(error).strip().splitlines()[0]}") from error
    lacking = sorted({*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])})
    if lacking:
        raise UserError(
            f"{folder}: the checkpoint lacks {len(lacking)} of the network's weights, such as {lacking[0]}; "
            "fetch the model again with `al models fetch`"
        )
    return network.eval()
