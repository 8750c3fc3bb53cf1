"""Files of the controller's pod that a launch's server reads, such as a certificate. Its Secret has a copy of each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from venvd_contract.errors import InvalidRequest


def read_files(files: Mapping[str, Path | str]) -> dict[str, bytes]:
    """Read files by the settings of the server that name them.

    Raises:
        InvalidRequest: a file cannot be read; the message names it.
    """
    content = {}
    for variable, path in files.items():
        try:
            content[variable] = Path(path).read_bytes()
        except OSError as error:
            raise InvalidRequest(
                f"server: the controller cannot read {path} ({variable}): {error.strerror}. Name the Secret in the "
                "value backends.tlsSecrets of the chart"
            ) from None
    return content
