"""The docker engine. This file imports nothing, since programs in pods use modules beside it without the Docker SDK."""
