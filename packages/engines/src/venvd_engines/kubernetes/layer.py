"""A program of the controller's image: it pushes a layer on a base image, and runs no code of either.

    python -m venvd_engines.kubernetes.layer INPUTS/push.json

The layer is an environment, or the changes of an installation of Debian packages. The same files give the same layer,
bit for bit. The last line of the output is the image's digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import stat
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from venvd_contract.errors import InvalidRequest, NotFound, VenvdError
from venvd_engines.docker.labels import PACKAGES
from venvd_engines.kubernetes.changes import write_changes
from venvd_engines.kubernetes.packing import Layer, pack
from venvd_engines.kubernetes.registry import OCI_MANIFEST, Found, Repository, read_credentials

OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
MAX_PACKAGES_BYTES = 1 << 20
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
_EPOCH = "1970-01-01T00:00:00Z"


def write_layer(folder: Path, name: str, out: BinaryIO) -> Layer:
    """Write the files below `folder` as a layer in which the folder has the path `name`."""

    def fill(archive: tarfile.TarFile) -> None:
        for path in [folder, *sorted(_walk(folder))]:
            _add(archive, path, f"{name}/{path.relative_to(folder)}".removesuffix("/."))

    return pack(out, fill)


def _walk(folder: Path) -> Iterator[Path]:
    for parent, directories, names in os.walk(folder):
        yield from (Path(parent, name) for name in (*directories, *names))


def _add(archive: tarfile.TarFile, path: Path, name: str) -> None:
    """Add a file, directory or link. Owner, times and the bits of the umask are the same on every machine."""
    status = path.lstat()
    entry = tarfile.TarInfo(name)
    if stat.S_ISLNK(status.st_mode):
        entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, str(path.readlink()), 0o777
        archive.addfile(entry)
    elif stat.S_ISDIR(status.st_mode):
        entry.type, entry.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(entry)
    elif stat.S_ISREG(status.st_mode):
        entry.mode = 0o755 if status.st_mode & 0o100 else 0o644
        entry.size = status.st_size
        with path.open("rb") as file:
            archive.addfile(entry, file)


def find_platform(repository: Repository, reference: str) -> Found:
    """Find the manifest of this machine's platform.

    Raises:
        NotFound: the image has no such manifest.
    """
    chosen = repository.find(reference)
    if chosen is not None and "manifests" in chosen.content:
        wanted = ("linux", _MACHINES.get(platform.machine(), platform.machine()))
        for entry in chosen.content["manifests"]:
            platform_of_entry = entry.get("platform") or {}
            if (platform_of_entry.get("os"), platform_of_entry.get("architecture")) == wanted:
                chosen = repository.find(entry["digest"])
                break
        else:
            chosen = None
    if chosen is None:
        raise NotFound(f"the registry has no image {repository.name} {reference} for this machine")
    return chosen


def push(
    target: Repository, source: Repository, reference: str, file: Path, layer: Layer, config: dict[str, Any] | None
) -> str:
    """Push a layer onto a base image, and return the digest of the new image.

    Args:
        target: the repository of the new image.
        source: the repository of the base image.
        reference: the tag or digest of the base image.
        file: the compressed layer.
        layer: what `write_layer` returned for the file.
        config: for an image with a venv, fields of its configuration that replace the base's; else None.
    """
    base = find_platform(source, reference)
    image = json.loads(source.read_blob(base.content["config"]["digest"]))
    for each in base.content["layers"]:
        target.copy_blob(each["digest"], source)
    with file.open("rb") as data:
        target.put_blob(layer.digest, data)
    if config is not None:
        image["config"] = _make_settings(image.get("config") or {}, config)
    image["created"] = _EPOCH
    image["rootfs"]["diff_ids"].append(layer.diff_id)
    image.setdefault("history", []).append({"created": _EPOCH, "created_by": "venvd"})
    content = json.dumps(image, sort_keys=True).encode()
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    target.put_blob(digest, content)
    is_oci = base.media_type == OCI_MANIFEST
    manifest = {
        **base.content,
        "config": {**base.content["config"], "digest": digest, "size": len(content)},
        "layers": [
            *base.content["layers"],
            {"mediaType": OCI_LAYER if is_oci else DOCKER_LAYER, "digest": layer.digest, "size": layer.size},
        ],
    }
    manifest.pop("annotations", None)
    raw = json.dumps(manifest, sort_keys=True).encode()
    name = f"sha256:{hashlib.sha256(raw).hexdigest()}"
    target.put_manifest(name, raw, base.media_type)
    return name


def _make_settings(base: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Make the settings of an image with a venv. Of the base's variables, only the search path stays."""
    settings = {**base, **config}
    search = dict(variable.partition("=")[::2] for variable in settings.get("Env") or ())
    search["PATH"] = f"/env/bin:{search.get('PATH') or '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'}"
    settings["Env"] = [f"PATH={search['PATH']}"]
    settings.pop("Entrypoint", None)
    return settings


def read_packages(path: Path) -> str:
    """Read the list of packages as JSON. Code of packages may have written it, so it is not trusted.

    Raises:
        InvalidRequest: the file is not a list of names and versions.
    """
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            packages = [(str(name), str(version)) for name, version in json.loads(file.read(MAX_PACKAGES_BYTES))]
    except (OSError, ValueError, TypeError) as error:
        raise InvalidRequest(f"the installation left no list of its packages: {error}") from None
    return json.dumps(packages)


def main(inputs: Path) -> None:
    settings = json.loads(inputs.read_text())
    login = read_credentials(Path(settings["credentials"]))
    options: dict[str, Any] = {"credentials": login, "ca_bundle": settings["caBundle"]}
    target = Repository(settings["target"], url=settings["url"], **options)
    base, _, reference = settings["base"].partition("@")
    source = Repository(base, **options)
    if source.host == target.host:
        source = Repository(base, url=settings["url"], **options)
    config = None
    file = Path(settings["scratch"]) / "layer.tar.gz"
    with file.open("wb") as out:
        if "changes" in settings:
            layer = write_changes(Path(settings["changes"]), out)
        else:
            packages = read_packages(Path(settings["packages"]))
            config = {**settings["config"], "Labels": {**settings["config"]["Labels"], PACKAGES: packages}}
            layer = write_layer(Path(settings["folder"]), settings["folder"].lstrip("/"), out)
    sys.stdout.write(f"the layer has {layer.size} bytes\n")
    sys.stdout.write(push(target, source, reference, file, layer, config) + "\n")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except VenvdError as error:
        sys.exit(error.message)
