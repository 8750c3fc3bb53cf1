"""Files of the controller's pod that the server of a launch reads, such as a certificate: its Secret holds a copy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from venvd_contract.errors import InvalidRequest


def read_files(files: Mapping[str, Path | str]) -> dict[str, bytes]:
    """Read files by the settings of the server that name them.

    Raises:
        InvalidRequest: one cannot be read; names it.
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
