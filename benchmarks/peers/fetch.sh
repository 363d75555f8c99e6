#!/bin/sh
# Fetch the servers and task queues that the benchmark compares with into this directory. Nothing is installed on the machine.
set -eu
cd "$(dirname "$0")"

python=../../.venv/bin/python
test -x $python || python=python3
if ! cmp -s requirements.txt python/requirements.txt; then
    pip="python/bin/python -m pip install -qq --disable-pip-version-check --no-input"
    if $python -m venv --clear python && $pip -r requirements.txt; then
        cp requirements.txt python/
    else
        rm -rf python
        echo "The task queues cannot be had from PyPI: they are left out" >&2
    fi
fi

# What does not come is left out; the script says so.
./fetch_python314.sh || echo "threadmill cannot be had: it is left out" >&2

if command -v npm >/dev/null; then
    npm ci --ignore-scripts --no-audit --no-fund --loglevel error
else
    echo "No npm: ws, Socket.IO and uWebSockets.js are left out" >&2
fi

if command -v apt-get >/dev/null && command -v dpkg >/dev/null; then
    rm -rf debian && mkdir debian && cd debian
    # Its sandbox user may not write here, and says so at length.
    if apt-get -o APT::Sandbox::User= -qq download nginx libnginx-mod-nchan; then
        for package in *.deb; do dpkg -x "$package" .; done
        rm -- *.deb
        # The module has this path built in.
        mkdir -p /var/lib/nginx || echo "Nchan needs the directory /var/lib/nginx: make it as root" >&2
    else
        echo "Debian's packages cannot be had (apt-get update, as root, may help): Nchan is left out" >&2
    fi
else
    echo "No Debian here: Nchan is left out, unless nginx has the module already" >&2
fi
