"""The .NET runtime of a venv with Python.NET: the environment variables with which `import clr` starts it."""

from __future__ import annotations


def make_dotnet_env(prefix: str, python: str) -> dict[str, str]:
    """Make the .NET variables for the venv at `prefix`; `python` is its exact version of CPython."""
    minor = ".".join(python.split(".")[:2])
    return {
        "PYTHONNET_RUNTIME": "coreclr",
        "DOTNET_ROOT": f"{prefix}/lib/python{minor}/site-packages/dotnetcore2/bin",
        "DOTNET_SYSTEM_GLOBALIZATION_INVARIANT": "1",  # the images have no ICU
        "COMPlus_EnableDiagnostics": "0",  # otherwise the runtime opens a socket for debuggers
    }
