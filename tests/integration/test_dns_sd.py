#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: a server with `discovery = dns-sd` finds gateways that are announced on the network, loses those that go, and is moved by no
announcement: only the proof of the key makes a gateway.

Method: a real avahi-daemon on a D-Bus of its own, both in a network and a mount namespace where only the loopback is, with multicast on it;
this file starts itself anew inside. For another machine there is a second of each, joined by a cable (veth). Hostile announcements are
service files of that avahi-daemon. Where there is no avahi, or no namespace may be made, it is skipped.
"""
import contextlib
import os
import re
import socket
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import weirtest  # noqa: E402

INSIDE = "WEIR_TEST_NAMESPACE"
KEY = bytes(range(32))
SERVICES, HOSTS = "/etc/avahi/services", "/etc/avahi/hosts"
MESSAGES = "".join(f'<allow {way}_type="{kind}"/>' for way in ("send", "receive")
                   for kind in ("method_call", "method_return", "signal", "error"))
BUS = f"""<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=%s</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/>{MESSAGES}</policy></busconfig>
"""
AVAHI = """[server]
host-name={host}
use-ipv6=no
allow-interfaces={interface}
ratelimit-interval-usec=1000000
ratelimit-burst=5000
[publish]
publish-workstation=no
publish-hinfo=no
[wide-area]
enable-wide-area=no
"""
SERVICE = """<?xml version="1.0"?><!DOCTYPE service-group SYSTEM "avahi-service.dtd">
<service-group><name>{name}</name><service><type>_weir-gateway._tcp</type>{host}<port>{port}</port>{txt}</service></service-group>
"""


PREPARE = ["mount -t tmpfs none /run", "mount -t tmpfs none /etc/avahi", "ip link set lo up", "ip link set lo multicast on",
           f"mkdir -p /run/avahi-daemon {SERVICES}", f"touch {HOSTS}"]


NEAR, FAR = "10.99.0.1", "10.99.0.2"
# What a second machine is: a network with one end of a cable, and files of its own where avahi has its own.
MACHINE = PREPARE[:3] + PREPARE[4:] + ["echo stands", "exec sleep infinity"]


def enter():
    """Become this program in namespaces of its own; return where that cannot be."""
    for how in (["-n", "-m"], ["-r", "-n", "-m"]):
        flags = ["unshare", *how, "--propagation", "private"]
        with contextlib.suppress(OSError):
            if subprocess.run([*flags, "sh", "-ec", "; ".join(PREPARE)], capture_output=True).returncode == 0:
                os.environ[INSIDE] = "1"
                os.execvp(flags[0], [*flags, sys.executable, os.path.abspath(__file__), *sys.argv[1:]])


class DnsSd(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        weirtest.need("unshare", "ip", "dbus-daemon", "/usr/sbin/avahi-daemon", "avahi-publish-service")
        if INSIDE not in os.environ:
            raise unittest.SkipTest("no namespace may be made here, or nothing mounted in it")
        subprocess.run(["sh", "-ec", "; ".join(PREPARE)], check=True)

    def setUp(self):
        self.world = weirtest.World()
        self.addCleanup(lambda: self.world.__exit__(None, None, None))
        bus = self.world.path("bus")
        os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = "unix:path=" + bus
        self.bus_path = bus
        self.bus()
        self.daemon = self.avahi()

    def bus(self, path=None, inside=()):
        path = path or self.bus_path
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        with open(path + ".conf", "w", encoding="ascii") as f:
            f.write(BUS % path)
        p = weirtest.Process(self.world, "dbus-daemon", [*inside, "dbus-daemon", "--config-file=" + path + ".conf", "--nofork",
                                                         "--nopidfile"])
        weirtest.wait_until(lambda: os.path.exists(path), "the bus")
        return p

    def avahi(self, host="weirtest", interface="lo", inside=(), env=None):
        conf = self.world.path(f"avahi-{host}.conf")
        with open(conf, "w", encoding="ascii") as f:
            f.write(AVAHI.format(host=host, interface=interface))
        daemon = weirtest.Process(self.world, "avahi-daemon", [
            *inside, "avahi-daemon", "--no-drop-root", "--no-chroot", "--no-rlimits", "--no-proc-title", "-f", conf], env)
        daemon.wait_line("Server startup complete")
        return daemon

    def machine(self):
        """Another machine at the other end of a cable; returns how to run something there, and its environment."""
        holder = weirtest.Process(self.world, "machine", ["unshare", "-n", "-m", "--propagation", "private", "sh", "-ec",
                                                          "; ".join(MACHINE)])
        holder.wait_line("stands")
        inside = ["nsenter", "-t", str(holder.pid), "-n", "-m"]
        for command in (["ip", "link", "add", "near", "type", "veth", "peer", "name", "far", "netns", str(holder.pid)],
                        ["ip", "addr", "add", NEAR + "/24", "dev", "near"], ["ip", "link", "set", "near", "up"],
                        [*inside, "ip", "addr", "add", FAR + "/24", "dev", "far"], [*inside, "ip", "link", "set", "far", "up"]):
            subprocess.run(command, check=True)
        env = {"DBUS_SYSTEM_BUS_ADDRESS": "unix:path=" + self.world.path("far-bus")}
        self.bus(self.world.path("far-bus"), inside)
        self.avahi("weirfar", "far", inside, env)
        return inside, env

    def server(self, conf="[control]\ndiscovery = dns-sd\n"):
        state = self.world.path("server")
        os.makedirs(state, mode=0o700, exist_ok=True)
        self.key = os.path.join(state, "gateway.key")
        with open(self.key, "w", encoding="ascii", opener=lambda p, f: os.open(p, f, 0o600)) as f:
            f.write(KEY.hex() + "\n")
        with open(self.world.path("server.conf"), "w", encoding="ascii") as f:
            f.write(conf)
        r = subprocess.run([weirtest.SERVER, "--config", self.world.path("server.conf"), "--check-config"], capture_output=True, text=True)
        if "without avahi" in r.stderr:
            self.skipTest("this server was built without avahi")
        return self.world.server("--config", self.world.path("server.conf"), state_dir=state)

    def gateway(self, name, announce=True):
        """One that listens for its server; its announcement is a process besides."""
        g = self.world.gateway(config=f"[gateway]\nname = {name}\n[server]\nlisten = 127.0.0.1:{weirtest.free_port()}\n"
                                      f"key-file = {self.key}\n"
                                      f"[listener l]\naddress = 127.0.0.1:0\ntarget = t\n[target t]\nuri = nbd://127.0.0.1:9\n")
        if announce:
            at = g.popen.args.index("--config")
            g.announcement = weirtest.Process(self.world, "announcement", [weirtest.GATEWAY, "--announce", *g.popen.args[at:at + 2]])
            g.announcement.wait_line("Established")
        return g

    def state(self, server, name):
        return next((g["state"] for g in server.items("/gateways") if g["name"] == name), None)

    def wait_state(self, server, name, state):
        weirtest.wait_until(lambda: self.state(server, name) == state, f"{name} to be {state}")

    def metric(self, server, name):
        text = server.request("GET", "/metrics", raw=True)[2]
        return int(re.search(rf"^weir_monitor_{name} (\d+)$", text, re.M).group(1))

    def announce(self, name, port, host="", txt=""):
        with open(f"{SERVICES}/{name}.service", "w", encoding="ascii") as f:
            f.write(SERVICE.format(name=name, port=port, txt=txt, host=host and f"<host-name>{host}</host-name>"))

    def silence(self):
        for f in os.listdir(SERVICES):
            os.unlink(os.path.join(SERVICES, f))

    def test_a_gateway_that_is_announced_is_found_and_one_that_goes_is_lost(self):
        server = self.server()
        first = self.gateway("first")
        self.wait_state(server, "first", "admitted")
        dial = server.items("/dials")[0]
        self.assertEqual((dial["source"], dial["name"], dial["state"]), ("discovered", "first", "session"))
        self.assertIn("discovered", self.world.cli(server, "get", "dials", check=True).stdout)
        self.assertEqual(self.metric(server, "found_now"), 1)

        # The announcement ends: what was proved stands. Then the gateway ends: it is lost, and its place is free.
        first.announcement.stop()
        self.gateway("second")
        self.wait_state(server, "second", "admitted")
        self.assertEqual(self.state(server, "first"), "admitted")
        first.stop()
        self.wait_state(server, "first", "lost")
        weirtest.wait_until(lambda: [d["name"] for d in server.items("/dials")] == ["second"], "the place of the first to be free")

        # The daemon goes, and D-Bus with it, and both come again: sessions stand, and a third is found.
        self.daemon.stop()
        server.wait_line("gateways cannot be looked for on the network")
        self.assertEqual(self.state(server, "second"), "admitted")
        self.daemon = self.avahi()
        self.gateway("third")
        self.wait_state(server, "third", "admitted")
        self.assertEqual(self.state(server, "second"), "admitted")
        self.assertEqual(self.metric(server, "ended_error_total") + self.metric(server, "ended_by_server_total"), 0)

    def test_a_gateway_on_another_machine_is_found_and_enrols(self):
        weirtest.need("nsenter")
        self.daemon.stop()
        inside, env = self.machine()
        self.daemon = self.avahi("weirnear", "near")
        server = self.server()
        token = server.request("POST", "/api/v1/enrolment-tokens", {})[2]["token"]
        state, conf = self.world.path("far-state"), self.world.path("far.conf")
        os.makedirs(state, mode=0o700)
        with open(conf, "w", encoding="ascii") as f:
            f.write(f"[gateway]\nname = far\n[server]\nlisten = {FAR}:7401\n"
                    "[listener l]\naddress = 127.0.0.1:0\ntarget = t\n[target t]\nuri = nbd://127.0.0.1:9\n")
        common = ["--state-dir", state, "--config", conf]

        def gateway(*args):
            p = weirtest.Process(self.world, "far-gateway", [*inside, weirtest.GATEWAY, "--socket", self.world.path("far.sock"), *common,
                                                             *args], env)
            p.wait_line("listening on")
            return p

        first = gateway("--token", token)
        announcement = weirtest.Process(self.world, "far-announcement", [*inside, weirtest.GATEWAY, "--announce", *common], env)
        self.wait_state(server, "far", "admitted")
        known = server.get("/gateways/far")
        self.assertEqual(known["address"], FAR)
        dial = server.items("/dials")[0]
        self.assertEqual((dial["source"], dial["name"], dial["address"]), ("discovered", "far", f"{FAR}:7401"))

        # The cable is drawn and put back while the gateway is away: it is found anew, and is the one it was.
        first.stop()
        self.wait_state(server, "far", "lost")
        announcement.stop()
        for way in ("down", "up"):
            subprocess.run(["ip", "link", "set", "near", way], check=True)
        gateway()
        weirtest.Process(self.world, "far-announcement", [*inside, weirtest.GATEWAY, "--announce", *common], env)
        self.wait_state(server, "far", "admitted")
        self.assertEqual(server.get("/gateways/far")["id"], known["id"])

    def test_a_server_that_starts_before_d_bus_finds_gateways_when_it_is_there(self):
        self.daemon.stop()
        for p in self.world.processes:
            p.stop()
        server = self.server()
        server.wait_line("gateways cannot be looked for on the network")
        self.bus()
        self.daemon = self.avahi()
        self.gateway("late")
        self.wait_state(server, "late", "admitted")
        self.assertEqual(server.output().count("cannot be looked for"), 1, "said once")

    def test_a_server_ends_in_order_while_d_bus_does_not_answer(self):
        for p in self.world.processes:
            p.stop()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.bus_path)
        with socket.socket(socket.AF_UNIX) as mute:  # takes connections, and never says a word
            mute.bind(self.bus_path)
            mute.listen(8)
            server = self.server()
            mute.settimeout(weirtest.PATIENCE)
            self.held = mute.accept()[0]  # so the finder is inside D-Bus, or about to be
            self.addCleanup(self.held.close)
            self.assertEqual(self.held.recv(1), b"\0", "libdbus begins with it")
            self.assertEqual(server.stop(), 0)
            self.assertIn("D-Bus does not answer the finder", server.output())

    def test_hostile_announcements_cost_nothing(self):
        server = self.server()
        self.gateway("honest")
        self.wait_state(server, "honest", "admitted")
        silent = [socket.create_server(("127.0.0.1", 0)) for _ in range(24)]
        for s in silent:
            self.addCleanup(s.close)
        with open(HOSTS, "w", encoding="ascii") as f:
            f.write("169.254.169.254 metadata.local\n224.0.0.251 many.local\n0.0.0.0 nobody.local\n")
        garbage = "".join(f"<txt-record>{'x' * 200}{i}=&lt;%n</txt-record>" for i in range(5))
        for i, host in enumerate(("metadata.local", "many.local", "nobody.local", "absent.local")):
            self.announce(f"0-bad-{i}", 80, host)
        self.announce("0-port", 0)
        self.announce("0-txt", 9, txt=garbage)
        for i, s in enumerate(silent):
            self.announce(f"1-silent-{i}", s.getsockname()[1])
        self.daemon.popen.send_signal(1)
        weirtest.wait_until(lambda: self.metric(server, "handshakes_now") > 0, "silent ones to be dialled")
        for i in range(300):
            self.announce(f"2-many-{i}", 10000 + i)
        self.daemon.popen.send_signal(1)
        weirtest.wait_until(lambda: self.metric(server, "found_now") >= 200, "the flood to be found", 3 * weirtest.PATIENCE)
        weirtest.wait_until(lambda: self.metric(server, "found_refused_total") >= 20, "what finds no room to be counted",
                            3 * weirtest.PATIENCE)
        self.assertLessEqual(self.metric(server, "found_now"), 256)
        self.assertLessEqual(self.metric(server, "handshakes_now"), 16)
        addresses = {d["address"] for d in server.items("/dials")}
        self.assertFalse([a for a in addresses if re.match(r"169\.254|224\.|0\.0\.0\.0|.*:0$", a)], "addresses that no gateway has")

        # Others come in as if nothing were, and the honest one stands.
        self.world.gateway(target="nbd://127.0.0.1:9", server=server, name="dialler")
        self.wait_state(server, "dialler", "admitted")
        self.assertEqual(self.state(server, "honest"), "admitted")
        self.assertEqual({g["name"] for g in server.items("/gateways")}, {"honest", "dialler"})
        self.silence()
        self.daemon.popen.send_signal(1)
        weirtest.wait_until(lambda: self.metric(server, "found_now") <= 1, "the flood to be over")
        self.gateway("after")
        self.wait_state(server, "after", "admitted")

    def test_a_gateway_that_listens_nowhere_has_nothing_to_announce(self):
        path = self.world.path("none.conf")
        for listen in ("", "[server]\nlisten = 127.0.0.1:0\n", f"[server]\nlisten = unix:{self.world.path('x')}\n"):
            with open(path, "w", encoding="ascii") as f:
                f.write(f"{listen}[listener l]\naddress = 127.0.0.1:0\ntarget = t\n[target t]\nuri = nbd://127.0.0.1:9\n")
            r = subprocess.run([weirtest.GATEWAY, "--announce", "--config", path, "--state-dir", self.world.path("s")], capture_output=True,
                               text=True, timeout=weirtest.PATIENCE)
            self.assertEqual(r.returncode, 2, r.stderr)
            self.assertIn("nothing to announce", r.stderr)


if __name__ == "__main__":
    if INSIDE not in os.environ:
        enter()
    weirtest.main()
