"""The docker engine."""

from venvd_engines.docker.engine import DockerEngine

__all__ = ["DockerEngine"]
