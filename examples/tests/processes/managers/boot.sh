#!/bin/sh
# Makes namespaces ready, and becomes their first process: boot.sh DIRECTORY TREE [COMMAND...]; without a command, systemd.
#
# TREE is a file system with the manager in it, `/` for that of the machine. Nothing of it is written to: what changes lies in memory and goes with the
# namespaces. DIRECTORY is what the test has made: app (seen as /opt/app), source (/srv/releases), state (/var/lib), units (/etc/systemd/system), and `up`,
# the socket by which systemd tells that it is up; what is written to `lines` comes to the standard output. The network is the machine's own.
set -eu
directory=$1 tree=$2
shift 2

mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o "lowerdir=$tree,upperdir=/mnt/upper,workdir=/mnt/work" overlay /mnt/root
cd /mnt/root

printf 'app:x:61001:61001::/nonexistent:/usr/sbin/nologin\n' >>etc/passwd
printf 'app:x:61001:\n' >>etc/group

mkdir -p opt/app srv/releases run proc sys dev old
mount --bind "$directory/app" opt/app
mount --bind "$directory/source" srv/releases
mount --bind "$directory/state" var/lib
mount -t tmpfs -o mode=755 tmpfs run
mkdir -p run/rig
mount --bind "$directory" run/rig

if [ $# -eq 0 ]; then
    # No unit but those that every unit depends on.
    mount -t tmpfs tmpfs usr/lib/systemd/system
    for unit in sysinit basic sockets shutdown up; do
        printf '[Unit]\nDescription=%s\nDefaultDependencies=no\n' "$unit" >usr/lib/systemd/system/$unit.target
    done
    printf 'Requires=sysinit.target basic.target\n' >>usr/lib/systemd/system/up.target
    for emptied in usr/lib/systemd/system-generators usr/lib/systemd/system-environment-generators usr/local/lib/systemd/system; do
        [ ! -d "$emptied" ] || mount -t tmpfs -o mode=755 tmpfs "$emptied"
    done
    mount --bind "$directory/units" etc/systemd/system
    cat <>"$directory/lines" &
fi

# Devices: the few that every program may count on.
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm
for device in null zero full random urandom tty; do
    : >dev/$device
    mount --bind /dev/$device dev/$device
done
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
mount -t tmpfs tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr

pivot_root . old
cd /
mount -t proc proc /proc
# systemd would change settings of the kernel.
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount -t sysfs -o ro sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
umount -l /old
hostname overseer
[ $# -eq 0 ] || exec "$@"

exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin container=overseer NOTIFY_SOCKET=/run/rig/up \
    /usr/lib/systemd/systemd --system --unit=up.target --show-status=no --log-target=null </dev/null
