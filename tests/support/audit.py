"""
Known vulnerabilities in what is installed: `python -m tests.support.audit`, a part of `make check`.

Owns what follows from pip-audit's answer. A vulnerability is a failure. A service that does not answer is none: a check
of the code must work without the network, so that is one line and a success, within SECONDS. Arguments go to pip-audit.
"""

import json
import subprocess
import sys
from typing import Any

__all__ = ["SECONDS", "main"]

# Then the service is taken for one that does not answer, and so is one that is silent on a connection for so long.
SECONDS = 60.0
SILENT_SECONDS = 5


def main(arguments: list[str], *, seconds: float = SECONDS) -> int:
    """Ask, say what was found, and return the exit code."""
    command = [sys.executable, "-m", "pip_audit", "--format=json", "--progress-spinner=off"]
    try:
        done = subprocess.run(
            [*command, f"--timeout={SILENT_SECONDS}", *arguments],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        packages = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        return _pass(f"no answer within {seconds:g} s")
    except ValueError:
        # It prints nothing where the service cannot be asked, and says why last.
        return _pass((done.stderr.strip().splitlines() or ["it said nothing"])[-1][:200])
    vulnerable = [each for each in packages if each.get("vulns")]
    for each in vulnerable:
        for problem in each["vulns"]:
            sys.stdout.write(_line(each, problem))
    if vulnerable:
        return 1
    skipped = sum("skip_reason" in each for each in packages)
    if skipped:
        return _pass(f"{skipped} of {len(packages)} packages are not known to the service")
    return 0


def _pass(problem: str) -> int:
    sys.stdout.write(f"pip-audit could not look for vulnerabilities ({problem})\n")
    return 0


def _line(package: dict[str, Any], problem: dict[str, Any]) -> str:
    fixed = ", ".join(problem["fix_versions"]) or "none yet"
    return f"{package['name']} {package['version']} is vulnerable: {problem['id']} (mended in: {fixed})\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
