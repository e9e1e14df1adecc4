#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: the gateway's unit and that of its announcement work under a real systemd, hardening and all: the gateway becomes ready, what is
announced is found, an announcement that dies comes again, and it goes with its gateway.

Method: systemd as process 1 of namespaces of its own (pid, mount, net, uts, ipc, cgroup) over a copy-on-write view of this machine's
files, with D-Bus, avahi and our units and nothing else. Where such a thing may not be made it is skipped.
"""
import contextlib
import os
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import weirtest  # noqa: E402

SYSTEMD = "/lib/systemd/systemd"
# What belongs to a machine and not to what is looked at.
MASKED = """
systemd-udevd.service systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-udev-trigger.service
systemd-sysctl.service systemd-tmpfiles-setup.service systemd-tmpfiles-setup-dev.service systemd-modules-load.service
systemd-networkd.service systemd-resolved.service systemd-timesyncd.service systemd-logind.service
systemd-update-utmp.service systemd-random-seed.service systemd-remount-fs.service systemd-journal-flush.service
systemd-journald-audit.socket dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount
proc-sys-fs-binfmt_misc.automount systemd-hwdb-update.service systemd-sysusers.service ldconfig.service
""".split()
MACHINE = r"""set -e
W={dir}/machine; R=$W/root
mount --make-rprivate /
mkdir -p $W; mount -t tmpfs none $W
mkdir -p $W/up $W/work $R
mount -t overlay overlay -o lowerdir=/,upperdir=$W/up,workdir=$W/work $R
mount -t proc proc $R/proc
mount -t sysfs -o ro sysfs $R/sys
mount -t tmpfs none $R/sys/fs/cgroup
mkdir -p $R/sys/fs/cgroup/systemd
mount -t cgroup -o none,name=systemd cgroup $R/sys/fs/cgroup/systemd || mount -t cgroup2 cgroup2 $R/sys/fs/cgroup
mount -t tmpfs none $R/dev
for d in null zero full random urandom tty; do touch $R/dev/$d; mount --bind /dev/$d $R/dev/$d; done
mkdir $R/dev/shm $R/dev/pts $R/dev/mqueue
mount -t devpts -o newinstance,ptmxmode=0666 devpts $R/dev/pts
ln -s pts/ptmx $R/dev/ptmx
mount -t tmpfs none $R/run
mount -t tmpfs none $R/tmp
mkdir -p $R/out $R/usr/local/bin $R/etc/weir $R/usr/lib/sysusers.d
mount --bind {out} $R/out
ip link set lo up
ip link set lo multicast on
rm -rf $R/etc/systemd/system $R/etc/fstab
cp -r {units} $R/etc/systemd/system
for u in {masked}; do ln -s /dev/null $R/etc/systemd/system/$u; done
echo 0123456789abcdef0123456789abcdef > $R/etc/machine-id
cp {gateway} $R/usr/local/bin/
cp {sysusers} $R/usr/lib/sysusers.d/weir.conf
chroot $R systemd-sysusers
cp $R/out/gateway.conf $R/out/key $R/etc/weir/
chroot $R chown weir-gateway /etc/weir/key
chmod 600 $R/etc/weir/key
cp $R/out/avahi-daemon.conf $R/etc/avahi/avahi-daemon.conf
cd $R; mkdir -p .old; pivot_root . .old; umount -l /.old; cd /
exec env -i container=weirtest PATH=/usr/sbin:/usr/bin:/sbin:/bin {systemd} --unit=weirtest.target --log-target=journal --show-status=0
"""
PROBE = r"""#!/bin/sh
exec > /out/result 2>&1
found() { for i in $(seq 1 100); do avahi-browse -rpt _weir-gateway._tcp | grep '^=' && return; sleep 0.2; done; echo "not found"; }
gone() { for i in $(seq 1 100); do avahi-browse -rpt _weir-gateway._tcp | grep -q '^=' || { echo "gone"; return; }; sleep 0.2; done; }
found
systemctl show -p ActiveState -p NotifyAccess -p Type weir-gateway
pid=$(systemctl show -p MainPID --value weir-gateway-announce)
[ "$pid" -gt 1 ] && kill -9 $pid
while [ "$(systemctl show -p NRestarts --value weir-gateway-announce)" = 0 ]; do sleep 0.2; done
echo "again"
found
systemctl stop weir-gateway
gone
echo "announcement $(systemctl show -p ActiveState --value weir-gateway-announce)"
journalctl --no-pager -u weir-gateway -u weir-gateway-announce
echo END
"""


class Units(unittest.TestCase):
    def test_gateway_and_announcement_run_as_units(self):
        weirtest.need("unshare", "ip", SYSTEMD, "/usr/sbin/avahi-daemon", "avahi-browse", "avahi-publish-service", "systemd-sysusers")
        if os.getuid() != 0:
            self.skipTest("not root: no machine may be made here")
        with weirtest.World() as w:
            out, units = w.path("out"), w.path("units")
            os.makedirs(out)
            os.makedirs(units + "/weir-gateway-announce.service.d")

            def put(path, text, mode=0o644):
                with open(path, "w", encoding="ascii", opener=lambda p, f: os.open(p, f, mode)) as f:
                    f.write(text)
            for name in ("weir-gateway.service", "weir-gateway-announce.service"):
                with open(os.path.join(weirtest.BUILD, "packaging", name), encoding="utf-8") as f:
                    text = f.read()
                path = next(line for line in text.splitlines() if line.startswith("ExecStart=")).split("=", 1)[1].split()[0]
                put(os.path.join(units, name), text.replace(path, "/usr/local/bin/weir-gateway"))
            put(units + "/weir-gateway-announce.service.d/soon.conf", "[Service]\nRestartSec=500ms\n")
            # Whether systemd runs at all where we are; it waits for nothing.
            put(units + "/up.service", "[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nExecStart=/bin/touch /out/up\n")
            put(units + "/weirtest.target", "[Unit]\nWants=up.service dbus.service avahi-daemon.service weir-gateway.service "
                                            "weir-gateway-announce.service probe.service\n")
            put(units + "/probe.service", "[Unit]\nAfter=weir-gateway-announce.service\n[Service]\nType=oneshot\nExecStart=/out/probe\n")
            put(out + "/probe", PROBE, 0o755)
            put(out + "/key", "5a" * 32 + "\n")
            put(out + "/gateway.conf", "[gateway]\nname = unit\n[server]\nlisten = 127.0.0.1:7401\nkey-file = /etc/weir/key\n"
                                       "[listener l]\naddress = 127.0.0.1:10809\ntarget = t\n[target t]\nuri = nbd://127.0.0.1:9\n")
            put(out + "/avahi-daemon.conf", "[server]\nhost-name=unit\nuse-ipv6=no\nallow-interfaces=lo\n[publish]\n"
                                            "publish-workstation=no\npublish-hinfo=no\n")
            put(w.path("machine.sh"), MACHINE.format(
                dir=w.dir, out=out, units=units, masked=" ".join(MASKED), gateway=os.path.realpath(weirtest.GATEWAY), systemd=SYSTEMD,
                sysusers=os.path.join(weirtest.ROOT, "packaging/systemd/weir.sysusers")))
            with open(w.path("machine.log"), "wb") as log:
                machine = subprocess.Popen(["unshare", "--pid", "--mount", "--net", "--uts", "--ipc", "--cgroup", "--fork", "--kill-child",
                                            "sh", w.path("machine.sh")], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            try:
                with contextlib.suppress(AssertionError):
                    weirtest.wait_until(lambda: os.path.exists(out + "/up") or machine.poll() is not None, "a machine to be up",
                                        2 * weirtest.PATIENCE)
                if not os.path.exists(out + "/up"):
                    with open(w.path("machine.log"), encoding="utf-8", errors="replace") as f:
                        self.skipTest("no machine can be made here: " + f.read()[-200:])
                result = lambda: open(out + "/result", encoding="utf-8").read() if os.path.exists(out + "/result") else ""  # noqa: E731
                weirtest.wait_until(lambda: result().endswith("END\n"), "the units to be looked at", 4 * weirtest.PATIENCE)
                text = result()
            finally:
                machine.kill()
                machine.wait()
        self.assertRegex(text, r"(?s)^=;lo;IPv4;unit;_weir-gateway\._tcp;local;unit\.local;127\.0\.0\.1;7401.*"
                               r"ActiveState=active.*again\n=;lo;IPv4;unit;.*gone\nannouncement inactive\n", text)
        self.assertIn("Established under name 'unit'", text)
        self.assertIn("SIGTERM: ending", text)


if __name__ == "__main__":
    weirtest.main()
