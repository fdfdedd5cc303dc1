#!/usr/bin/env bash
# Records what the installed C tools print for every case; see README.md. With the argument `images`, makes the images
# again that the cases need and our own tool cannot make.
set -euo pipefail
cd "$(dirname "$0")"
version=$(qemu-img --version | head -n 1)
case $version in
*" 10.0."*) ;;
*) echo "qemu-img 10.0 is needed, this is: $version" >&2 && exit 1 ;;
esac

work=$(mktemp -d)
trap 'rm -r "$work"' EXIT

keep() { od -A x -t x1 -w32 "$work/$1" >"images/$1.image"; }
make() { local name=$1; shift; (cd "$work" && qemu-img create -q -f qcow2 "$@" "$name" 1M); }

images() {
    mkdir -p images
    make data-file -o data_file=data.raw && keep data-file
    make data-file-raw -o data_file=raw.raw,data_file_raw=on && keep data-file-raw
    make extended-l2 -o extended_l2=on,cluster_size=16k && keep extended-l2
    make aes --object secret,id=s,data=abc -o encrypt.format=aes,encrypt.key-secret=s,cluster_size=4k && keep aes
    make luks --object secret,id=s,data=abc -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10,cluster_size=4k
    # The key slots are random bytes, which nobody needs here.
    luks_at=$((0x$(od -A n -t x1 -j 120 -N 8 "$work/luks" | tr -d ' \n')))
    dd if=/dev/zero of="$work/luks" bs=4096 seek=$((luks_at / 4096 + 1)) count=504 conv=notrunc status=none
    keep luks
    make bitmaps -o cluster_size=4k
    (cd "$work" && for bitmap in one two three; do qemu-img bitmap --add bitmaps $bitmap; done)
    (cd "$work" && qemu-img bitmap --disable bitmaps two && qemu-img bitmap --add -g 512 bitmaps 'with space')
    keep bitmaps
    make snapshots -o cluster_size=512
    (cd "$work" && for name in first 'a name that is longer than its column' ''; do qemu-img snapshot -c "$name" snapshots; done)
    keep snapshots
    make snapshots-v2 -o cluster_size=512,compat=0.10
    (cd "$work" && qemu-img snapshot -c old snapshots-v2)
    keep snapshots-v2
}

# Images to be damaged: repair.txt knows where their tables are.
repairs() {
    local name=$1; shift
    (cd "$work" && make "$name" "$@" && qemu-io -c 'write -P 1 0 16k' -c 'write -P 2 64k 8k' -c 'write -z 128k 4k' "$name" >/dev/null)
}

repair_images() {
    repairs repair -o cluster_size=4096 && keep repair
    repairs repair-r1 -o cluster_size=4096,refcount_bits=1 && keep repair-r1
    for name in repair-snapshots repair-snapshots-v2; do
        case $name in *-v2) repairs $name -o cluster_size=4096,compat=0.10 ;; *) repairs $name -o cluster_size=4096 ;; esac
        (cd "$work" && qemu-img snapshot -c s0 $name && qemu-io -c 'write -P 5 0 4k' $name &&
            qemu-img snapshot -c s1 $name && qemu-io -c 'write -P 6 8k 4k' $name) >/dev/null
        keep $name
    done
}

if [ "${1-}" = images ]; then images && repair_images; fi
DRYSTONE_RECORD=1 cargo test -q -p drystone-cli --test it golden
