#!/bin/sh
# docker_rootfs.sh FOLDER: a root file system of a few programs of this machine with the libraries they need, as the
# smallest image in which the tests can look around.
set -eu
to=$1
mkdir -p "$to/bin" "$to/etc" "$to/tmp" "$to/home/agent"
for name in sh cat ls id env sleep dd tail head mkdir rm kill touch grep tr wc sort hostname mount unshare curl; do
    from=$(command -v $name) || continue # the tests say themselves what they miss
    case $from in /*) ;; *) from=/bin/$name ;; esac
    [ -x "$from" ] && cp -L "$from" "$to/bin/$name"
done
for file in "$to"/bin/*; do ldd "$file" 2>/dev/null || true; done |
    sed -n 's/^.*=> \(\/[^ ]*\) .*$/\1/p; s/^[[:space:]]*\(\/[^ ]*\) .*$/\1/p' | sort -u |
    while read -r lib; do
        mkdir -p "$to$(dirname "$lib")"
        cp -L "$lib" "$to$lib"
    done
