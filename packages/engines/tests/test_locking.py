from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import uv

from venvd_contract.errors import Internal, InvalidRequest, Unavailable, VenvdError
from venvd_engines import locking

VERSION = ".".join(map(str, sys.version_info[:3]))
HASH = "sha256:" + "0" * 64
OTHER = "sha256:" + "1" * 64


def compiled(folder: Path, *lines: str, flags: tuple[str, ...] = (), **env: str) -> str | VenvdError:
    """The lock of these requirements by the real installer, or the error for its complaint."""
    source, output = folder / "in.txt", folder / "out.txt"
    source.write_text("".join(f"{line}\n" for line in lines))
    arguments = locking.compile_arguments(str(source), str(output), python_version=VERSION, python=sys.executable)
    result = subprocess.run(
        [uv.find_uv_bin(), *arguments, *flags],
        env={**os.environ, "UV_HTTP_RETRIES": "0", **env},
        capture_output=True,
        text=True,
        check=False,
    )
    return locking.clean(output.read_text()) if result.returncode == 0 else locking.failure(result.stderr)


def failed(outcome: str | VenvdError) -> VenvdError:
    assert isinstance(outcome, VenvdError), outcome
    return outcome


@pytest.mark.network
def test_a_lock_pins_every_package_with_hashes(tmp_path: Path) -> None:
    """A lock names each package that is needed, with its version and hashes, and no address."""
    lock = compiled(tmp_path, "requests==2.31.0")
    assert isinstance(lock, str)
    assert set(locking.pins(lock)) == {"requests", "certifi", "charset-normalizer", "idna", "urllib3"}
    assert locking.pins(lock)["requests"] == "2.31.0"
    assert all("--hash=sha256:" in line for line in lock.splitlines())
    assert "://" not in lock


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("pandsa", 'the package index has no package pandsa (is "pandas" meant?)'),
        ("sklearn", '(is "scikit-learn" meant?)'),
        ("Scikit.Lern", '(is "scikit-learn" meant?)'),
        ("zzzzzz", "the package index has no package zzzzzz"),
    ],
)
def test_a_misspelt_package(name: str, says: str) -> None:
    """The error names a well-known package that may be meant."""
    stderr = (
        "error: No solution found when resolving dependencies:\n"
        f"  cause: Because {name} was not found in the package registry and you require {name}, we can conclude that "
        "your requirements are unsatisfiable.\n"
    )
    assert says in locking.explain(stderr)
    assert ("meant" in locking.explain(stderr)) == ("meant" in says)


def test_builds_from_source_name_their_setting() -> None:
    """A package without wheels is refused with the setting that allows a build."""
    stderr = (
        "error: No solution found when resolving dependencies:\n"
        "  cause: Because all versions of old have no usable wheels and you require old, we can conclude that your "
        "requirements are unsatisfiable.\n"
        "hint: Wheels are required for `old` because building from source is disabled for all packages\n"
    )
    assert "VENVD_ALLOW_SOURCE_BUILDS=1" in locking.explain(stderr)


@pytest.mark.network
@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("venvd-there-is-no-such-package",), ("has no package venvd-there-is-no-such-package",)),
        (("numpy==99",), ("no version of numpy==99",)),
        (("requests==2.31", "urllib3>=3"), ("requests==2.31.0 depends on urllib3>=1.21.1,<3", "urllib3>=3")),
        (("docopt",), ("docopt", "no usable wheels", "building from source")),
    ],
)
def test_what_cannot_be_resolved_is_named(tmp_path: Path, lines: tuple[str, ...], words: tuple[str, ...]) -> None:
    """The error for requirements that cannot be had names them and the cause, and no address."""
    error = failed(compiled(tmp_path, *lines))
    assert isinstance(error, InvalidRequest)
    assert all(word in error.message for word in words), error.message
    assert "://" not in error.message
    assert str(tmp_path) not in error.message


def test_an_index_that_is_away_is_said(tmp_path: Path) -> None:
    """Where the index does not answer the error is `unavailable`, and shows neither its address nor its credentials."""
    outcome = compiled(tmp_path, "six", flags=("--no-cache",), UV_DEFAULT_INDEX="http://user:secret@127.0.0.1:9/index")
    error = failed(outcome)
    assert isinstance(error, Unavailable)
    assert "cannot be reached: Connection refused" in error.message
    assert not [word for word in ("secret", "user", "127.0.0.1", "://") if word in error.message]


def test_an_interpreter_that_is_gone_is_no_fault_of_the_requirements(tmp_path: Path) -> None:
    """A complaint that is neither about requirements nor about the index is a defect."""
    source = tmp_path / "in.txt"
    source.write_text("six\n")
    arguments = locking.compile_arguments(
        str(source), str(tmp_path / "out"), python_version=VERSION, python="/nonexistent/python"
    )
    result = subprocess.run([uv.find_uv_bin(), *arguments], capture_output=True, text=True, check=False)
    error = locking.failure(result.stderr)
    assert isinstance(error, Internal)
    assert "/nonexistent/python" in error.message


def test_silence_is_explained() -> None:
    """A silent installer still gives a sentence."""
    assert locking.explain("") == "the installer failed without a message"
    assert isinstance(locking.failure(""), Internal)


def test_a_long_complaint_is_cut() -> None:
    """What an error carries of the installer's words is bounded."""
    assert len(locking.explain("error: " + "x" * 100_000)) < 5000


def test_a_full_disk_is_said() -> None:
    """A disk without space is `unavailable`, not a fault of the requirements."""
    error = locking.failure("error: Failed to install: six\n  cause: No space left on device (os error 28)\n")
    assert isinstance(error, Unavailable)
    assert "disk is full" in error.message


def test_a_lock_has_one_form() -> None:
    """Order, comments, options, line breaks and addresses do not change a lock."""
    text = f"""
    # made by something
    --index-url https://user:secret@example.org/index
    Six==1.16.0 \\
        --hash={OTHER} \\
        --hash={HASH}
        # via https://example.org
    idna==3.4 --hash={HASH}
    """
    expected = f"idna==3.4 --hash={HASH}\nsix==1.16.0 --hash={HASH} --hash={OTHER}\n"
    assert locking.clean(text) == locking.clean(expected) == expected
    assert locking.pins(expected) == {"idna": "3.4", "six": "1.16.0"}


def test_no_requirements_make_an_empty_lock() -> None:
    """A venv without packages has an empty lock."""
    assert locking.clean("# nothing\n\n") == ""
    assert locking.pins("") == {}


@pytest.mark.parametrize(
    "line",
    [
        "six==1.16.0",
        f"six>=1 --hash={HASH}",
        f"six==1.16.* --hash={HASH} and more",
        f"six @ https://user:secret@example.org/six.whl --hash={HASH}",
    ],
)
def test_what_is_not_pinned_by_hash_is_no_lock(line: str) -> None:
    """A line without one version and a hash is refused, and its address not shown."""
    with pytest.raises(Internal) as error:
        locking.clean(line)
    assert "six" in error.value.message
    assert "secret" not in error.value.message


def test_source_builds_are_off_unless_asked_for() -> None:
    """Only wheels are taken, for resolving and for installing, until a setting says otherwise."""
    for build in (False, True):
        resolve = locking.compile_arguments("in", "out", python_version="3.13.0", source_builds=build)
        install = locking.install_arguments("lock", python="python", source_builds=build)
        assert ("--only-binary" in resolve, "--only-binary" in install) == (not build, not build)


def test_the_index_is_on_no_command_line() -> None:
    """Index and certificates reach the installer through its environment."""
    assert locking.index_environment("https://user:secret@example.org", "/ca.pem") == {
        "UV_DEFAULT_INDEX": "https://user:secret@example.org",
        "SSL_CERT_FILE": "/ca.pem",
    }
    assert locking.index_environment(None, None) == {}
