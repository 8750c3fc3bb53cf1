from __future__ import annotations

import pytest

from venvd_contract.errors import InvalidRequest, TooLarge
from venvd_engines import requirements


@pytest.mark.parametrize(
    ("line", "canonical"),
    [
        ("numpy", "numpy"),
        ("  NumPy >= 1.26 , <3  # arrays", "numpy<3,>=1.26"),
        ("A_b.c[X,y]>=1", "a-b-c[X,y]>=1"),
        ("tomli; python_version < '3.11'", 'tomli; python_version < "3.11"'),
        ("discord.py", "discord-py"),
        ("six==1.16.0\r\n", "six==1.16.0"),
        ("torch==2.1.0+cpu", "torch==2.1.0+cpu"),
        ("numpy\t>=1", "numpy>=1"),
    ],
)
def test_requirements_have_one_form(line: str, canonical: str) -> None:
    """However a requirement is written, what it asks for has one form."""
    assert requirements.check([line]) == [canonical]


def test_order_comments_and_blank_lines_say_nothing() -> None:
    """The same requirements in another order and with comments are the same."""
    assert requirements.check(["# data", "", "pandas", "  ", "numpy"]) == requirements.check(["numpy", "pandas # x"])


def test_a_package_asked_for_twice_must_satisfy_both() -> None:
    """Two lines for one package become one with the versions and the extras of both."""
    assert requirements.check(["Pandas[excel]>=2", "pandas[aws]<3"]) == ["pandas[aws,excel]<3,>=2"]


def test_different_markers_stay_apart() -> None:
    """Lines for one package under different markers are kept as they are."""
    lines = ['numpy<2; python_version < "3.12"', 'numpy>=2; python_version >= "3.12"']
    assert requirements.check(lines) == lines


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("-r more.txt", "is an option"),
        ("--index-url https://example.org", "is an option"),
        ("-e .", "is an option"),
        ("numpy --hash=sha256:00", "cannot be read"),
        ("./wheel.whl", "is a path"),
        ("../sibling", "is a path"),
        ("/etc/passwd", "is a path"),
        ("~/thing", "is a path"),
        ("thing.whl", "is a path"),
        ("dist/thing.tar.gz", "is a path"),
        ("c:\\thing", "is a path"),
        ("numpy @ https://example.org/numpy.whl", "names an address"),
        ("numpy@file:///numpy.whl", "names an address"),
        ("numpy[x] @ ./numpy", "names an address"),
        ("https://example.org/numpy.whl", "names an address"),
        ("git+ssh://git@example.org/numpy", "names an address"),
        ("FILE:numpy", "names an address"),
        ("numpy==${VERSION}", "environment variable"),
        ("%USERPROFILE%", "environment variable"),
        ('numpy; os_name == "$HOME"', "environment variable"),
        ("numpy\nevil", "control characters or several lines"),
        ("numpy\x1b[2J", "control characters"),
        ("numpy\u202e", "control characters"),
        ("numpy \\", "goes on in another line"),
        ("numpy pandas", "cannot be read"),
        ("numpy=1.0", "cannot be read"),
        ("numpy>=banana", "cannot be read"),
        ("nümpy", "cannot be read"),
        ("numpy; os_name = 'posix'", "cannot be read"),
        ('numpy; extra == "x"', 'marker on "extra"'),
        ("numpy===anything", "no version"),
        ("n" * 2000, "longer than"),
    ],
)
def test_whatever_chooses_a_source_or_cannot_be_read_is_refused(line: str, reason: str) -> None:
    """A refused line is named in the error, with what is wrong with it."""
    with pytest.raises(InvalidRequest) as error:
        requirements.check(["six", line])
    assert reason in error.value.message
    assert line.strip()[:4] in error.value.message
    assert error.value.message.isprintable()


@pytest.mark.parametrize("lines", [["numpy<1,>2"], ["numpy==1", "NumPy==2"], ["numpy===1.0", "numpy===2.0"]])
def test_versions_that_exclude_each_other_are_refused(lines: list[str]) -> None:
    """Requirements that no version could satisfy are refused before anything is resolved."""
    with pytest.raises(InvalidRequest, match=r"no version can satisfy .*numpy"):
        requirements.check(lines)


def test_too_many_lines_are_refused() -> None:
    """The number of lines is bounded."""
    with pytest.raises(TooLarge, match="1001"):
        requirements.check([f"package{number}" for number in range(1001)])


def test_apt_packages_are_sorted_names() -> None:
    """Names of Debian packages come back sorted, each once."""
    assert requirements.check_apt(["libgomp1", "g++", "libgomp1"]) == ["g++", "libgomp1"]


@pytest.mark.parametrize("name", ["", "-y", "libgomp1=1.2", "a b", "Upper", "x;rm", "lib/etc", "a", "\n", "é" * 3])
def test_what_is_no_name_of_a_debian_package_is_refused(name: str) -> None:
    """Options, versions and shell words are no names of packages."""
    with pytest.raises(InvalidRequest, match="no name of a Debian package"):
        requirements.check_apt([name])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("tzdata-", "would remove the package"),
        ("libgomp1=14", "versions and releases cannot be chosen"),
        ("libgomp1/sid", "versions and releases cannot be chosen"),
        ("python3.*", "patterns are not taken"),
        ("python3.", "patterns are not taken"),
        ("^lib", "patterns are not taken"),
    ],
)
def test_an_action_or_a_pattern_of_apt_is_refused(name: str, reason: str) -> None:
    """The error says why what apt would take is not taken."""
    with pytest.raises(InvalidRequest, match=reason):
        requirements.check_apt([name])


@pytest.mark.parametrize("name", ["tzdata+", "lib.+", "python3.1"])
def test_only_names_of_packages_reach_apt(name: str) -> None:
    """What looks like a name, and is none, would be an action or a pattern of apt."""
    with pytest.raises(InvalidRequest, match="has no package"):
        requirements.check_apt_known(["g++", name], {"g++", "tzdata", "libgomp1", "python3.11"})


def test_the_nearest_package_is_named() -> None:
    """The error about an unknown package names one that may be meant."""
    with pytest.raises(InvalidRequest, match='is "libgomp1" meant'):
        requirements.check_apt_known(["libgom1"], {"g++", "libgomp1"})


def test_modules_keep_their_order() -> None:
    """Modules to preload are imported in the order in which they are given, each once."""
    assert requirements.check_modules(["pandas", "numpy.linalg", "pandas"]) == ["pandas", "numpy.linalg"]


@pytest.mark.parametrize("name", ["", "1x", "a..b", ".a", "a.", "import", "a.class", "a b", "a;b", "a-b", "a\n"])
def test_what_cannot_be_imported_is_refused(name: str) -> None:
    """Only dotted names of modules can be preloaded."""
    with pytest.raises(InvalidRequest, match="no name of a module"):
        requirements.check_modules([name])
