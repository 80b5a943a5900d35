"""An nvidia-smi that lists GPUs which are not there."""

import os
from pathlib import Path

UUIDS = [f"GPU-{digit * 8}-0000-4000-8000-000000000000" for digit in "3a1c"]


def environment(folder: Path, uuids: list[str] = UUIDS, **variables: str) -> dict[str, str]:
    """This process's environment with such an nvidia-smi, locks in ``folder``, and no SLURM.

    Parameters
    ----------
    variables : further variables of the environment.
    """
    rows = "".join(f"{index}, {uuid}\n" for index, uuid in enumerate(uuids))
    script = folder / "bin" / "nvidia-smi"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(
        '#!/bin/sh\n[ "$*" = "--query-gpu=index,uuid --format=csv,noheader" ] || exit 2\n'
        f"cat <<'END'\n{rows}END\n"
    )
    script.chmod(0o755)
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    of_this_machine = ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID")
    kept = {name: value for name, value in os.environ.items() if name not in of_this_machine}
    path = f"{script.parent}{os.pathsep}{kept['PATH']}"
    return kept | {"PATH": path, "TMPDIR": str(temporary)} | variables
