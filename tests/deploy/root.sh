#!/bin/sh
# Run a command as systemd would by our unit: a root of its own that cannot be written, an ordinary user without any
# capability, only the state folder to write to. By root, in a mount namespace that ends with the command.
#   unshare --mount sh root.sh ROOT STATE CONFIG VENV BASE REPOSITORY UID COMMAND…
set -eu
root=$1 state=$2 config=$3 venv=$4 base=$5 repository=$6 uid=$7
shift 7
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$root"
bind() {  # SOURCE TARGET: there to be read
    mkdir -p "$root$2"
    mount --bind "$1" "$root$2"
    mount -o remount,bind,ro "$root$2"
}
for folder in bin sbin lib lib64 usr; do
    [ -d "/$folder" ] && bind "/$folder" "/$folder"
done
mkdir -p "$root/etc/dicom-node" "$root/proc" "$root/dev" "$root/tmp" "$root/var/tmp"
for name in ld.so.cache nsswitch.conf hosts localtime ssl fonts; do
    [ -e "/etc/$name" ] && cp -aL "/etc/$name" "$root/etc/"
done
echo "dicom-node:x:$uid:$uid::/var/lib/dicom-node:/usr/sbin/nologin" > "$root/etc/passwd"
echo "dicom-node:x:$uid:" > "$root/etc/group"
cp "$config" "$root/etc/dicom-node/config.toml"
chmod 644 "$root/etc/dicom-node/config.toml"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"  # before what follows: a checkout may lie below /tmp
bind "$base" "$base"
bind "$repository" "$repository"
bind "$venv" /opt/dicom-node
real=$(realpath "$venv")  # what its programs name in their first line: elsewhere where several checkouts share it
[ -e "$root$real" ] || bind "$real" "$real"
mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"
mkdir -p "$root/var/lib/dicom-node"
mount --bind "$state" "$root/var/lib/dicom-node"
mount -o remount,ro "$root"
exec chroot "$root" setpriv --reuid="$uid" --regid="$uid" --clear-groups --no-new-privs --bounding-set=-all \
    --inh-caps=-all sh -c 'umask 0027; cd /var/lib/dicom-node; exec "$@"' sh "$@"
