"""Exceptions of .NET, under their own names."""

from __future__ import annotations


class DotNetError(Exception):
    """Whatever a .NET method throws; the old clients catch it and log it."""


class ArgumentError(DotNetError):
    """System.ArgumentException: the value has no form in JSON."""


class HttpRequestError(DotNetError):
    """System.Net.Http.HttpRequestException: no connection, or a status that is no success."""


class InvalidCastError(DotNetError):
    """System.InvalidCastException."""


class InvalidOperationError(DotNetError):
    """System.InvalidOperationException."""


class IoError(DotNetError):
    """System.IO.IOException: the other end is gone."""


class JsonError(DotNetError):
    """System.Text.Json.JsonException: the text is no JSON, or does not fit the type."""


class NotSupportedError(DotNetError):
    """System.NotSupportedException: the type cannot be read."""


class TaskCanceledError(DotNetError):
    """System.Threading.Tasks.TaskCanceledException: a time-out of HttpClient."""
