"""How everything is written: whole or not at all."""

import uuid
from pathlib import Path


class CannotWriteError(OSError):
    """A file that cannot be written: its path, and why."""


def write(path, save):
    """Write `path` by save(temporary path), then rename: it is never half-written.

    The temporary file has a name of its own, so that two runs in one folder do not
    meet. Raises CannotWriteError if the disk is full, the folder read-only, ...
    """
    path = Path(path)
    temporary = path.with_name(f".{uuid.uuid4().hex}_{path.name}")
    try:
        try:
            save(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise CannotWriteError(f"{path} cannot be written: {reason}") from None
