#!/usr/bin/env bash
# Makes a stand-in for the image that the Dockerfiles start from, where none can be pulled:
#   base_image.sh NAME:TAG
# It is Debian bookworm with this machine's CPython 3.11 in /usr/local, its certificates, its package
# index if it has one of its own, and torch's CPU wheel. Needs root, and a running engine.
set -euo pipefail
cd "$(dirname "$0")/../.."

tag=$1
python=${PYTHON:-python3.11}
suite=bookworm
torch="torch==$(sed -n 's/^torch==//p' requirements/constraints.txt)+cpu"
certificates=${PIP_CERT:-${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}}

say() { printf '%s\n' "$*" >&2; }
fail() { say "error: $*"; exit 1; }

root=$(mktemp -d)
trap 'rm -rf --one-file-system "$root"' EXIT

prefix=$("$python" -c 'import sys; print(sys.base_prefix)') || fail "Python 3.11 is needed"
[ "$prefix" != /usr ] || fail "$python is Debian's; a CPython 3.11 with a folder of its own is needed"

# Debian packages of the libraries that this CPython loads.
library_packages() {
    find "$prefix/bin/python3.11" "$prefix/lib/python3.11/lib-dynload" -name 'python3.11' -o -name '*.so' -not -name '_tkinter*' \
        | xargs ldd 2>/dev/null \
        | awk -v own="$prefix" '$2 == "=>" && $3 ~ "^/" && index($3, own) != 1 { sub(".*/", "", $3); print $3 }' \
        | sort -u \
        | while read -r library; do dpkg -S "*/$library" 2>/dev/null | head -n 1 | cut -d: -f1; done \
        | sort -u | paste -sd,
}

make_debian() {
    say "making Debian $suite"
    command -v debootstrap >/dev/null || apt-get install -y -qq --no-install-recommends debootstrap >/dev/null
    local mirror
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | head -n 1)
    debootstrap --variant=minbase --include="ca-certificates,$(library_packages)" "$suite" "$root" "$mirror" >"$root.log" \
        || { tail -n 20 "$root.log" >&2; fail "debootstrap failed"; }
    rm -rf "$root.log" "$root"/var/cache/apt/*.bin "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
}

copy_python() {
    say "copying CPython 3.11"
    tar -C "$prefix" -c --exclude=site-packages --exclude='*.a' --exclude=__pycache__ --exclude=lib/python3.11/test \
        --exclude=lib/python3.11/idlelib lib bin/python3.11 | tar -C "$root/usr/local" -x --no-same-owner
    ln -s python3.11 "$root/usr/local/bin/python3"
    ln -s python3.11 "$root/usr/local/bin/python"
    chroot "$root" ldconfig
    chroot "$root" /usr/local/bin/python3.11 -m ensurepip --default-pip >/dev/null 2>&1
}

copy_settings() {
    say "copying certificates, pip's index and torch's wheel"
    cp "$certificates" "$root/etc/ssl/certs/ca-certificates.crt"
    local index
    index=$("$python" -m pip config get global.index-url 2>/dev/null || true)
    {
        printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\ntimeout = 120\nfind-links = /var/lib/wheels\n'
        [ -z "$index" ] || printf 'index-url = %s\n' "$index"
    } >"$root/etc/pip.conf"
    mkdir -p "$root/var/lib/wheels"
    "$python" -m pip download --quiet --no-deps --dest "$root/var/lib/wheels" "$torch" \
        || say "no wheel of $torch here; the builds will ask PyTorch's index"
}

make_debian
copy_python
copy_settings
tar -C "$root" --one-file-system -c . | docker import \
    --change 'ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8' \
    --change 'CMD ["python3"]' - "$tag" >/dev/null
say "made $tag"
