"""Images of venvs: pods lock, install, push and check, and the registry keeps what was accepted."""

from __future__ import annotations

import base64
import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lightkube.resources.core_v1 import Secret

from venvd_contract.errors import Internal, InvalidRequest, NotFound, Unavailable, VenvdError
from venvd_contract.resources import Package, check_version
from venvd_engines import import_check, locking, requirements
from venvd_engines.build_locks import BuildLocks
from venvd_engines.docker.base_images import OFFICIAL
from venvd_engines.docker.labels import KEY, PACKAGES, PYTHON
from venvd_engines.docker.venv_images import CHECK_CODE, CHECK_SECONDS
from venvd_engines.dotnet import make_dotnet_env
from venvd_engines.engine import Image, Progress, RuntimeRef, VenvBuild
from venvd_engines.kubernetes import labels, pods
from venvd_engines.kubernetes.apt import AptImages
from venvd_engines.kubernetes.cluster import Cluster
from venvd_engines.kubernetes.registry import Repository
from venvd_engines.kubernetes.tasks import CREDENTIALS, INPUTS, PUSH_FILE, Outcome, Step, Tasks, make_push_step

_PROBE = "import json, platform; print(json.dumps([platform.python_implementation(), platform.python_version()]))"
_VERSION = re.compile(r"\d+(\.\d+)*")
_END = "==== the lock"
_CA = "ca.crt"
_OUT = "/run/venvd/out"
_PACKAGES = f"{_OUT}/packages.json"
_LOCKING = f"""
set -eu
exec 2>&1
"$@"
echo "{_END}"
cat /tmp/lock.txt
"""
"""One stream, since the log of a container does not keep the order of lines of two."""
_INSTALLING = f"""
set -eu
python3 -I -m venv --without-pip {pods.PREFIX}
if [ -s {INPUTS}/lock.txt ]; then "$@"; fi
python3 -I -S -B {pods.POST_INSTALL} {pods.PREFIX} "$WORKERS" >{_PACKAGES}
"""
_FIND_PYTHON = "$(python3 -I -S -c 'import sys; print(sys.executable)')"


class Images:
    """Locks, builds and finds images; the tag of an image is its acceptance."""

    def __init__(self, cluster: Cluster, tasks: Tasks, apt: AptImages) -> None:
        self._cluster = cluster
        self._tasks = tasks
        self._apt = apt
        self._locks = BuildLocks(cluster.settings.home / "builds")

    # ---- runtimes and locks ----------------------------------------------------------------------------------

    def resolve(self, version: str, progress: Progress) -> RuntimeRef:
        """Run the base image once: it tells its version, and the node its digest."""
        check_version(version)
        template = self._cluster.settings.base_image or OFFICIAL
        name = template.format(version=version, minor=".".join(version.split(".")[:2]))
        step = Step("probe", name, ["python3", "-I", "-c", _PROBE], show=False)
        try:
            [outcome] = self._tasks.run(labels.CHECK, [step], progress, seconds=300)
        except NotFound as error:
            held = self._list_versions(template)
            raise NotFound(f"no base image for CPython {version}{held}: {error.message}") from None
        if outcome.status != 0:
            raise InvalidRequest(f"the base image {name} has no working python3: {outcome.output[-500:]}")
        implementation, exact = json.loads(_read_answer(outcome))
        if implementation != "CPython":
            raise InvalidRequest(f"the base image {name} holds {implementation}, not CPython")
        if exact != version and not exact.startswith(f"{version}."):
            raise InvalidRequest(f"the base image {name} holds CPython {exact}, and {version} was asked for")
        if "@sha256:" not in outcome.image:
            raise Internal(f"the node does not know the digest of {name}: {outcome.image}")
        progress.log(f"CPython {exact} from {name} ({outcome.image})")
        return RuntimeRef(version=version, resolved=exact, base=outcome.image)

    def _list_versions(self, template: str) -> str:
        """List the versions that a registry has, for an error; empty where it does not tell."""
        name, _, tag = template.rpartition(":")
        if tag not in {"{version}", "{minor}"}:
            return ""
        with contextlib.suppress(VenvdError):
            tags = {each for each in self._open(name).list_tags() if _VERSION.fullmatch(each)}
            ordered = sorted(tags, key=lambda each: [int(number) for number in each.split(".")])
            return f" (the registry has {', '.join(ordered)})" if ordered else ""
        return ""

    def lock(
        self, runtime: RuntimeRef, lines: Sequence[str], progress: Progress, constraints: Sequence[str] = ()
    ) -> str:
        """Resolve requirements; see `Engine.lock`."""
        checked, bounds = requirements.check(lines), requirements.check(constraints)
        if not checked:
            return ""
        files = {"requirements.in": _join(checked), **({"constraints.txt": _join(bounds)} if bounds else {})}
        arguments = locking.compile_arguments(
            f"{INPUTS}/requirements.in",
            "/tmp/lock.txt",  # noqa: S108 - in a container of our own
            python_version=runtime.resolved,
            constraints=f"{INPUTS}/constraints.txt" if bounds else None,
            source_builds=self._cluster.settings.allow_source_builds,
        )
        # the log is shown at the end: it may name addresses
        step = Step("lock", runtime.base, self._make_uv(_LOCKING, arguments), env=self._make_env(), show=False)
        [outcome] = self._tasks.run(
            labels.BUILD, [step], progress, files={**files, **self._read_certificates()}, provide=["uv"]
        )
        output, _, lock = outcome.output.partition(f"{_END}\n")
        if outcome.status != 0:
            raise locking.failure(output)
        for line in output.splitlines():
            if line.startswith("Resolved"):
                progress.log(line)
        return locking.clean(lock)

    @staticmethod
    def _make_uv(script: str, arguments: Sequence[str]) -> list[str]:
        """Make the command of a script that runs uv, with the base image's own interpreter, as `"$@"`."""
        return ["sh", "-c", f'set -- "$@" --python "{_FIND_PYTHON}"\n{script}', "sh", pods.UV, *arguments]

    def _make_env(self) -> dict[str, str]:
        settings = self._cluster.settings
        bundle = f"{INPUTS}/{_CA}" if settings.ca_bundle else None
        return {
            "UV_CACHE_DIR": "/tmp/cache",  # noqa: S108 - in a container of our own
            "WORKERS": str(max(1, round(settings.build_cpus))),
            **locking.index_environment(settings.index_url, bundle),
        }

    def _read_certificates(self) -> dict[str, bytes]:
        bundle = self._cluster.settings.ca_bundle
        try:
            return {_CA: bundle.read_bytes()} if bundle else {}
        except OSError as error:
            raise InvalidRequest(f"VENVD_CA_BUNDLE cannot be read: {error}") from None

    # ---- builds ----------------------------------------------------------------------------------------------

    def build(self, venv: VenvBuild, progress: Progress) -> Image:
        """Build an image, check it and tag it, unless one with the same key exists."""
        if venv.apt_packages:
            self._apt.check_available()
        key = venv.key()
        with self._locks.hold(key, progress):
            image = self.find(key)
            if image is not None:
                progress.log(f"the image exists already: {image.ref}")
                self._check_imports(image, venv, progress)
                return image
            image = self._build_unchecked(venv, key, progress)
            progress.phase("check")
            self._check(image, progress)
            self._check_imports(image, venv, progress)
            self._accept(image)
            return image

    def _build_unchecked(self, venv: VenvBuild, key: str, progress: Progress) -> Image:
        """Install, then push: the second step runs nothing of the first one's, and alone has the credentials."""
        base = venv.runtime.base
        if venv.apt_packages:
            names = requirements.check_apt(venv.apt_packages)
            base = f"{self._repository_name}@{self._apt.build(base, names, self._describe_target(), progress)}"
        progress.phase("install")
        settings = self._cluster.settings
        arguments = locking.install_arguments(
            f"{INPUTS}/lock.txt", python="", prefix=pods.PREFIX, source_builds=settings.allow_source_builds
        )
        place = arguments.index("--python")
        del arguments[place : place + 2]  # the script adds the base's own
        mounts = {"env": pods.PREFIX, "out": _OUT}
        steps = [
            Step("install", base, self._make_uv(_INSTALLING, arguments), env=self._make_env(), mounts=mounts),
            make_push_step(self._cluster.options, mounts, self._cluster.options.push_secret),
        ]
        files = {
            "lock.txt": venv.lock.encode(),
            PUSH_FILE: json.dumps(self._describe_push(venv, key, base)).encode(),
            **self._read_certificates(),
        }
        outcomes = self._tasks.run(labels.BUILD, steps, progress, files=files, provide=["uv"])
        if outcomes[0].status != 0:
            raise locking.failure(outcomes[0].output)
        if outcomes[-1].status != 0:
            raise Unavailable(f"the image could not be pushed: {outcomes[-1].output[-2000:]}")
        progress.log(outcomes[-1].output)
        return self._read(_read_answer(outcomes[-1]))

    def _describe_target(self) -> dict[str, Any]:
        """Describe to a step where it pushes."""
        return {
            "scratch": pods.TMP,
            "target": self._repository_name,
            "url": self._cluster.options.registry_url,
            "credentials": CREDENTIALS,
            "caBundle": f"{INPUTS}/{_CA}" if self._cluster.settings.ca_bundle else None,
        }

    def _describe_push(self, venv: VenvBuild, key: str, base: str) -> dict[str, Any]:
        return {
            **self._describe_target(),
            "folder": pods.PREFIX,
            "packages": _PACKAGES,
            "base": base,
            "config": {
                "Cmd": [f"{pods.PREFIX}/bin/python"],
                "User": f"{labels.WORKER_UID}:{labels.SHARED_GID}",
                "WorkingDir": "/",
                "Labels": {KEY: key, PYTHON: venv.runtime.resolved},
            },
        }

    def _check(self, image: Image, progress: Progress) -> None:
        """Start the venv's Python, and compare its packages with those installed."""
        outcome = self._run_python(image, [CHECK_CODE], CHECK_SECONDS, progress)
        if outcome.status != 0:
            raise InvalidRequest(f"the venv's Python does not start: {outcome.output[-2000:]}")
        reported = json.loads(_read_answer(outcome))
        if reported != [image.python, [[package.name, package.version] for package in image.packages]]:
            raise InvalidRequest(f"the venv shows other packages than were installed: {reported}")

    def _check_imports(self, image: Image, venv: VenvBuild, progress: Progress) -> None:
        if venv.imports:
            progress.phase("check imports")
            env = make_dotnet_env(pods.PREFIX, image.python) if venv.dotnet else {}
            code = [import_check.CODE, *venv.imports]
            outcome = self._run_python(image, code, import_check.SECONDS, progress, env)
            import_check.check_outcome(venv.imports, outcome.status, outcome.output)

    def _run_python(
        self,
        image: Image,
        arguments: Sequence[str],
        seconds: float,
        progress: Progress,
        env: Mapping[str, str] | None = None,
    ) -> Outcome:
        """Run code with the venv's Python in a pod that NetworkPolicies close; the first argument is the code."""
        command = [f"{pods.PREFIX}/bin/python", "-I", "-c", *arguments]
        step = Step("check", image.ref, command, env=env, show=False)
        return self._tasks.run(labels.CHECK, [step], progress, seconds=seconds)[0]

    # ---- the registry ----------------------------------------------------------------------------------------

    @property
    def _repository_name(self) -> str:
        prefix = self._cluster.options.registry
        if not prefix:
            raise InvalidRequest("VENVD_KUBERNETES_REGISTRY is empty: it names where images of venvs are pushed")
        return f"{prefix}/venv"

    def _open(self, name: str | None = None) -> Repository:
        """Open the repository of venvs, or another one, with the credentials of pushes."""
        options, bundle = self._cluster.options, self._cluster.settings.ca_bundle
        credentials: dict[str, Any] = {}
        if options.push_secret:
            secret = self._cluster.client.get(Secret, options.push_secret)
            credentials = json.loads(base64.b64decode((secret.data or {}).get(".dockerconfigjson", "e30=")))
        venvs = self._repository_name
        name = name or venvs
        same = name.partition("/")[0] == venvs.partition("/")[0]
        return Repository(
            name,
            url=options.registry_url if same else None,
            credentials=credentials,
            ca_bundle=str(bundle) if bundle else None,
        )

    def _make_tag(self, key: str) -> str:
        return f"{self._cluster.settings.home_id}-{key}"

    def find(self, key: str) -> Image | None:
        """Find the accepted image of a key."""
        manifest = self._open().find(self._make_tag(key))
        with contextlib.suppress(NotFound):  # a registry may have lost parts of an image that has a tag
            return None if manifest is None else self._read(manifest.digest)
        return None

    def _read(self, digest: str) -> Image:
        """Read an image by digest."""
        repository = self._open()
        manifest = repository.find(digest)
        if manifest is None:
            raise NotFound(f"the registry lost the image {digest}: build the venv again")
        config = json.loads(repository.read_blob(manifest.content["config"]["digest"]))["config"]["Labels"]
        packages = tuple(Package(name, version) for name, version in json.loads(config[PACKAGES]))
        return Image(config[KEY], f"{self._repository_name}@{digest}", config[PYTHON], packages)

    def _accept(self, image: Image) -> None:
        repository = self._open()
        manifest = repository.find(image.ref.rpartition("@")[2])
        if manifest is None:
            raise Internal("the registry lost the image before it had a tag")
        repository.put_manifest(self._make_tag(image.key), manifest.raw, manifest.media_type)

    def remove(self, key: str) -> None:
        """Remove the tag of a key: another home may have an image with the same digest."""
        self._open().remove_tag(self._make_tag(key))


def _read_answer(outcome: Outcome) -> str:
    """Read the last line of the output."""
    lines = outcome.output.splitlines()
    if not lines:
        raise Unavailable("the cluster lost the output of a pod: try again")
    return lines[-1]


def _join(lines: Sequence[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()
