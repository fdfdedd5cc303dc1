#!/usr/bin/env bash
# Records what the installed C tools make and say; see README.md. Run it in this directory.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
image=$work/image

# NAME OPTIONS SNAPSHOT(yes|no) BITMAP(yes|no)
make() {
    local name=$1 options=$2 snapshot=$3 bitmap=$4 compressed=16k
    case $options in *2M*) compressed=2M ;; *64k*) compressed=64k ;; esac
    rm -f "$image"
    qemu-img create -q -f qcow2 -o "size=8M,$options" "$image"
    qemu-io -f qcow2 -c 'write -P 1 0 10k' -c 'write -P 2 100k 3k' -c "write -c -P 3 2M $compressed" \
        -c "write -c -P 4 4M $compressed" "$image" >/dev/null
    case $options in
    *compat=v2*) ;;
    *) qemu-io -f qcow2 -c 'write -z 1M 64k' -c 'write -P 5 7M 20k' -c 'write -z 7M 20k' "$image" >/dev/null ;;
    esac
    if [ "$snapshot" = yes ]; then
        qemu-img snapshot -c before "$image"
        qemu-io -f qcow2 -c 'write -P 6 1k 1k' -c 'write -P 7 3M 600' "$image" >/dev/null
    fi
    if [ "$bitmap" = yes ]; then
        qemu-img bitmap --add "$image" daily
        qemu-io -f qcow2 -c 'write -P 8 5M 5k' "$image" >/dev/null
    fi
    keep "$name"
}

# NAME: a small disk with something of everything, for tests that change it.
make_mixed() {
    rm -f "$image"
    qemu-img create -q -f qcow2 -o size=48k,cluster_size=1k "$image"
    qemu-io -f qcow2 -c 'write -c -P 1 0 8k' -c 'write -c -P 2 8k 4k' -c 'write -P 3 16k 6k' -c 'write -z 24k 4k' \
        -c 'write -P 4 30k 3k' "$image" >/dev/null
    qemu-img snapshot -c one "$image"
    qemu-io -f qcow2 -c 'write -P 5 17k 1k' -c 'write -c -P 6 36k 4k' -c 'write -z -u 31k 1k' "$image" >/dev/null
    keep "$1"
}

# The image, and the disk that a guest sees, as text: repeated lines are a star.
keep() {
    od -A x -t x1 -w32 "$image" >"$1.image"
    qemu-img check -f qcow2 --output=json "$image" | one_line >"$1.check" || true
    qemu-img map -f qcow2 --output=json "$image" >"$1.map"
    qemu-img convert -f qcow2 -O raw "$image" "$work/raw"
    od -A x -t x1 -w32 "$work/raw" >"$1.disk"
}

one_line() { tr -d "\n" | sed 's/"filename": "[^"]*",//; s/ "format": "qcow2",*//; s/  */ /g'; echo; }

# Damages the image that was made last: LABEL OFFSET BYTES(hex). Prints what the check says then.
damage() {
    local name=$1 label=$2 offset=$3 bytes=$4
    cp "$image" "$work/damaged"
    printf '%b' "$(sed 's/../\\x&/g' <<<"$bytes")" | dd of="$work/damaged" bs=1 seek="$((offset))" conv=notrunc status=none
    printf '%s | %s | %s | %s | ' "$name" "$label" "$offset" "$bytes"
    { qemu-img check -f qcow2 --output=json "$work/damaged" 2>/dev/null || true; } | one_line
}

# The 8 bytes at an offset, as a number.
word() { printf '0x%s' "$(od -A n -t x1 -j "$(($1))" -N 8 "$image" | tr -d ' \n')"; }
hex() { printf '%016x' "$1"; }

damages() {
    local name=$1 l1 l2 table block snapshots far=0x0000010000000000
    l1=$(($(word 40))) table=$(($(word 48))) snapshots=$(($(word 64)))
    l2=$(($(word "$l1") & 0x00fffffffffffe00)) block=$(($(word "$table")))
    damage "$name" 'L1 entry without its flag' "$l1" "$(hex "$l2")"
    damage "$name" 'L1 entry with a reserved bit' "$l1" "$(hex $(($(word "$l1") | 1)))"
    damage "$name" 'L1 entry out of the file' "$l1" "$(hex "$far")"
    damage "$name" 'L1 entry misaligned' "$l1" "$(hex $(($(word "$l1") + 512)))"
    damage "$name" 'L2 entry with a wrong flag' "$l2" "$(hex $(($(word "$l2") ^ (1 << 63))))"
    damage "$name" 'L2 entry with a reserved bit' "$l2" "$(hex $(($(word "$l2") | 4)))"
    damage "$name" 'L2 entry out of the file' "$l2" "$(hex "$far")"
    damage "$name" 'L2 entry lost' "$l2" "$(hex 0)"
    damage "$name" 'L2 entry to the refcount table' "$l2" "$(hex "$table")"
    damage "$name" 'L2 entry misaligned' "$l2" "$(hex $(($(word "$l2") + 512)))"
    damage "$name" 'L2 entry compressed with a flag' "$l2" "$(hex $(((3 << 62) | block)))"
    damage "$name" 'refcount block lost' "$table" "$(hex 0)"
    damage "$name" 'refcount block misaligned' "$table" "$(hex $((block + 512)))"
    damage "$name" 'refcount block with a reserved bit' "$table" "$(hex $((block + 1)))"
    damage "$name" 'second refcount block out of the file' "$((table + 8))" "$(hex "$far")"
    damage "$name" 'second refcount block is the first' "$((table + 8))" "$(hex "$block")"
    damage "$name" 'refcount block is the L2 table' "$table" "$(hex "$l2")"
    damage "$name" 'refcounts lost' "$block" "$(hex 0)"
    damage "$name" 'refcounts too high' "$block" "$(hex $((-1)))"
    damage "$name" 'no snapshots' 60 00000000
    if [ "$snapshots" -gt 0 ]; then
        damage "$name" 'snapshot out of the file' "$snapshots" "$(hex "$far")"
        damage "$name" 'snapshot misaligned' "$snapshots" "$(hex $(($(word "$snapshots") + 8)))"
        damage "$name" 'snapshot too long' "$((snapshots + 8))" 00400001
        damage "$name" 'snapshot without extra data' "$((snapshots + 36))" 00000000
        damage "$name" 'one snapshot more than there are' 60 00000002
    fi
}

{
    make c512 cluster_size=512 yes yes
    make c512-r64 cluster_size=512,refcount_bits=64 no no
    make c1k-r1 cluster_size=1k,refcount_bits=1 no no
    make c4k-v2 cluster_size=4k,compat=v2 yes no
    damages c4k-v2
    make c4k-r2-lazy cluster_size=4k,refcount_bits=2,lazy_refcounts=on no no
    damages c4k-r2-lazy
    make c4k-r32-zstd cluster_size=4k,refcount_bits=32,compression_type=zstd yes no
    damages c4k-r32-zstd
    make c64k cluster_size=64k yes yes
    make c64k-v2 cluster_size=64k,compat=v2 no no
    make_mixed c1k-mixed
    make c2m-r8 cluster_size=2M,refcount_bits=8 yes no
} >damages.txt
