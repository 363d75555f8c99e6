#!/bin/sh
# Fetch threadmill into python314/, with a Python 3.14: the machine's own, or the one of Debian's next release, unpacked
# there with the libraries that it needs. Nothing is installed on the machine.
set -eu
cd "$(dirname "$0")"

cmp -s requirements-python314.txt python314/requirements.txt && exit
rm -rf python314
trap 'test -e python314/requirements.txt || rm -rf python314' EXIT

# apt-get with lists and files of its own.
debian() {
    apt-get -qq -o APT::Sandbox::User= -o Dir::Etc::sourcelist="$PWD/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::State::lists="$PWD/lists" -o Dir::Cache="$PWD/cache" "$@"
}

pip="python -m pip install -qq --disable-pip-version-check --no-input"

unpack_debian() {
    mkdir -p python314/root python314/bin
    (
        cd python314
        mkdir -p lists/partial cache/archives/partial
        keys=/usr/share/keyrings/debian-archive-keyring.gpg
        echo "deb [signed-by=$keys] http://deb.debian.org/debian forky main" >sources.list
        debian update
        debian download python3.14-minimal libpython3.14-minimal libpython3.14-stdlib libc6 libbz2-1.0 libcrypt1 \
            libexpat1 libffi8 libgcc-s1 liblzma5 libsqlite3-0 libssl3t64 libstdc++6 libuuid1 libzstd1 zlib1g
        for package in *.deb; do dpkg -x "$package" root; done
        rm -rf -- *.deb lists cache sources.list
    )
    here=$PWD/python314
    cat >python314/bin/python <<EOF
#!/bin/sh
# Debian's Python with the libraries that it was built with. \`--argv0\` tells it that it is this file.
export PYTHONHOME="$here/root/usr" PYTHONPATH="$here/site-packages\${PYTHONPATH:+:\$PYTHONPATH}"
exec "$here/root/usr/lib64/ld-linux-x86-64.so.2" --library-path "$here/root/usr/lib/x86_64-linux-gnu" \\
    --argv0 "$here/bin/python" "$here/root/usr/bin/python3.14" "\$@"
EOF
    chmod +x python314/bin/python
    python/bin/$pip --no-warn-conflicts --no-compile --target python314/site-packages --implementation cp --python-version 3.14 \
        --only-binary=:all: --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 \
        -r requirements-python314.txt
    # Else each start would compile, where nothing is written at run time.
    python314/bin/python -m compileall -qq python314/root/usr/lib/python3.14 python314/site-packages || true
}

if command -v python3.14 >/dev/null; then
    python3.14 -m venv --clear python314
    python314/bin/$pip -r requirements-python314.txt
elif [ "$(dpkg --print-architecture 2>/dev/null)" = amd64 ] && [ -x python/bin/python ]; then
    unpack_debian
fi
if python314/bin/python -c 'import threadmill' 2>/dev/null; then
    cp requirements-python314.txt python314/requirements.txt
else
    echo "No Python 3.14 can be had: threadmill is left out" >&2
fi
