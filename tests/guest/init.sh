#!/bin/busybox sh
# shellcheck shell=dash
# SPDX-License-Identifier: Apache-2.0
# What the guest does as its first and only process: see guest.py. Everything goes to the serial console; the last line is
# "guest: exit N", N being 0 when all went well.
b=/bin/busybox
fail() {
    echo "guest: failed: $*"
    echo "guest: exit 1"
    $b poweroff -f
    $b sleep 60
}
step() {
    echo "guest: $*"
}
run() {
    "$@" || fail "$*"
}

$b mkdir -p /proc /sys /dev /mnt /tmp
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
$b mount -t tmpfs tmp /tmp
for word in $($b cat /proc/cmdline); do
    case "$word" in weir.*=*) eval "${word#weir.}" ;; esac
done
for m in $($b cat /modules.order); do
    run $b insmod "/modules/$m"
done
$b ip link set lo up
run $b ip addr add 10.0.2.15/24 dev eth0
run $b ip link set eth0 up
port=${port:-0} name=${name:-}

attach() {
    run /bin/nbd-client 10.0.2.2 "$port" /dev/nbd0 -N "$name" -C 2 -persist
    n=0
    while [ "$($b cat /sys/block/nbd0/size)" = 0 ]; do
        n=$((n + 1))
        [ $n -lt 100 ] || fail "the device has no size"
        $b sleep 0.1
    done
}
detach() {
    run /bin/nbd-client -d /dev/nbd0
}

step "kernel $($b uname -r), attaching $name on port $port"
attach
step "$($b cat /sys/block/nbd0/size) sectors"
run /bin/mke2fs -q -t ext4 -E nodiscard /dev/nbd0
run $b mount -t ext4 /dev/nbd0 /mnt
step "mounted"

# Files of many sizes, several writers at once; the sums stay in memory, outside the volume.
writer() {
    for i in 1 2 3 4 5 6 7 8; do
        $b dd if=/dev/urandom of="/mnt/w$1/f$i" bs=$(($1 * i * 1777)) count=$((40 / i)) 2>/dev/null || return 1
    done
    [ "$1" != 2 ] || $b rm "/mnt/w$1/f8"
    $b sync
}
for w in 1 2 3 4; do
    $b mkdir "/mnt/w$w"
    writer $w &
done
wait
(cd /mnt && $b find . -type f -exec $b sha256sum {} + | $b sort -k 2) >/tmp/sums
[ "$($b wc -l </tmp/sums)" = 31 ] || fail "31 files were expected, not $($b wc -l </tmp/sums)"
run $b fstrim /mnt
run $b umount /mnt
step "written"

# Nothing cached: another attachment.
detach
attach
run /bin/e2fsck -fn /dev/nbd0
run $b mount -t ext4 -o ro /dev/nbd0 /mnt
(cd /mnt && $b sha256sum -c -s /tmp/sums) || fail "a file is not what was written"
run $b umount /mnt
detach
step "verified"
echo "guest: exit 0"
$b poweroff -f
$b sleep 60
