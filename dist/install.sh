#!/bin/sh
# Installs drystone from the folder that this script is in, or takes it out again.
#
#   install.sh [--prefix DIR] [--destdir DIR] [--uninstall]
#
#   --prefix DIR    where it will be used from (/usr/local)
#   --destdir DIR   put in front of the prefix: for packages
#   --uninstall     removes what this archive installs, and folders that are empty then
#
# A file that is there and is not ours is never overwritten or removed: nothing is installed then. The C tools of the same
# names in another folder stay where they are; the order in PATH decides.
set -eu

prefix=/usr/local
destdir=
uninstall=no
usage() { sed -n '2,11s/^# \{0,1\}//p' "$0"; }
while [ $# -gt 0 ]; do
    case $1 in
    --prefix | --destdir)
        [ $# -ge 2 ] || { echo "install.sh: $1 needs a folder" >&2; exit 2; }
        if [ "$1" = --prefix ]; then prefix=$2; else destdir=$2; fi
        shift 2 ;;
    --prefix=*) prefix=${1#*=}; shift ;;
    --destdir=*) destdir=${1#*=}; shift ;;
    --uninstall) uninstall=yes; shift ;;
    -h | --help) usage; exit 0 ;;
    *) echo "install.sh: unknown argument '$1'" >&2; usage >&2; exit 2 ;;
    esac
done
case $prefix in /*) ;; *) echo "install.sh: the prefix must be absolute: $prefix" >&2; exit 2 ;; esac
case $destdir in '' | /*) ;; *) echo "install.sh: the destdir must be absolute: $destdir" >&2; exit 2 ;; esac

here=$(cd "$(dirname "$0")" && pwd)
root=$destdir$prefix
# What was installed here, so that an older or newer archive takes out, too, what it does not have itself.
record=share/doc/drystone/MANIFEST

names() { cat "$here/MANIFEST"; }
recorded() { [ ! -f "$root/$record" ] || cat "$root/$record"; }
is_ours() { recorded | grep -qxF -- "$1"; }

remove() {
    recorded | while IFS= read -r name; do
        rm -f -- "$root/$name"
        folder=$(dirname "$name")
        while [ "$folder" != . ] && rmdir -- "$root/$folder" 2>/dev/null; do
            folder=$(dirname "$folder")
        done
    done
}

if [ "$uninstall" = yes ]; then
    [ -f "$root/$record" ] || { echo "install.sh: drystone is not installed in $root" >&2; exit 1; }
    remove
    echo "drystone is gone from $root"
    exit 0
fi

names | while IFS= read -r name; do
    if { [ -e "$root/$name" ] || [ -L "$root/$name" ]; } && ! is_ours "$name"; then
        echo "install.sh: $root/$name is there and is not ours; nothing was installed" >&2
        exit 1
    fi
done

[ ! -f "$root/$record" ] || remove
mkdir -p "$root/$(dirname "$record")"
{ names; echo "$record"; } | sort -r >"$root/$record"
names | while IFS= read -r name; do
    mkdir -p "$root/$(dirname "$name")"
    case $name in
    *.service)
        sed "s|@PREFIX@|$prefix|g" "$here/$name" >"$root/$name"
        chmod 644 "$root/$name" ;;
    *)
        cp -P "$here/$name" "$root/$name"
        if [ ! -L "$root/$name" ]; then
            case $name in bin/*) chmod 755 "$root/$name" ;; *) chmod 644 "$root/$name" ;; esac
        fi ;;
    esac
done
echo "drystone is in $root"
