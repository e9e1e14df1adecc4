# SPDX-License-Identifier: Apache-2.0
"""Goal: peers that are gone without a word are noticed, those that are only slow are waited for, and without descriptors those
who are there go on.
Method: the hands of faultplay; links of network namespaces that are cut, and a limit of descriptors taken down to what is used."""
import concurrent.futures
import ctypes
import os
import random
import socket
import subprocess
import time

import weirtest
from faultplay import (DATA, KIB, SIZE, STATES, Case, FaultCase, Header, Held, Idle, Negotiation, Payload, Reply, Store, config,
                       exchange)
from rawnbd import READ, Host
from weirtest import wait_until


class Silence(FaultCase):
    """A peer that is gone without a word, in a network namespace whose link is cut."""

    def setUp(self):
        weirtest.need("ip")
        self.space = f"weir-{os.getpid()}-{random.randrange(1 << 20):x}"
        self.addCleanup(subprocess.run, ["ip", "netns", "del", self.space], capture_output=True)
        self.addCleanup(subprocess.run, ["ip", "netns", "del", self.space + "p"], capture_output=True)
        for argv in (f"netns add {self.space}", f"netns add {self.space}p",
                     f"-n {self.space} link add veth-a type veth peer name veth-b netns {self.space}p",
                     f"-n {self.space} addr add 10.0.0.1/24 dev veth-a", f"-n {self.space}p addr add 10.0.0.2/24 dev veth-b",
                     f"-n {self.space} link set veth-a up", f"-n {self.space}p link set veth-b up", f"-n {self.space} link set lo up"):
            if subprocess.run(["ip", *argv.split()], capture_output=True).returncode:
                self.skipTest("network namespaces are forbidden here")

    def within(self, space, make):
        """What @make returns, made in that namespace: sockets stay where they were made."""
        def work():
            with open(f"/run/netns/{space}") as f:
                if ctypes.CDLL(None, use_errno=True).setns(f.fileno(), 0x40000000) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
            return make()
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            return pool.submit(work).result()

    def play(self, target_space, target_address, host_space, expected, begin, strike, handshake):
        """A connection in each state of the protocol; all are cut at once, and all end for the @expected reasons."""
        world = weirtest.World()
        world.__enter__()
        self.addCleanup(lambda: world.__exit__(None, None, None))
        store = self.within(target_space, lambda: Store(target_address))
        self.addCleanup(store.close)
        g = self.within(self.space, lambda: world.gateway(config=config(
            store.uri, f"peer-timeout = 1s\nhandshake-timeout = {handshake}").replace("127.0.0.1:0", "10.0.0.1:0")))
        cases = []
        for name, state in reversed(STATES.items()):  # negotiation last: its time is short
            export = (b"stuck-" if state is Held else b"x-") + name.encode()
            c = self.within(host_space, lambda export=export, state=state: Case(g, store, export, state))
            self.addCleanup(c.close)
            cases.append(c)
            begin(c)
        before = self.connections(g)["closed"]
        subprocess.run(["ip", "-n", self.space + "p", "link", "set", "veth-b", "down"], check=True)
        for c in cases:
            strike(c)

        def closed():
            after = self.connections(g)["closed"]
            return {k: n - before[k] for k, n in after.items() if n != before[k]}
        wait_until(lambda: sum(closed().values()) == len(cases), f"all to be closed as {expected}")
        self.assertEqual(closed(), expected)
        for c in cases:
            c.balance()
        self.assertEqual(self.connections(g)["active"], 0)

    def test_a_target_that_is_gone_is_noticed_whatever_is_under_way(self):
        def strike(c):
            if c.state in (Idle, Reply, Held):  # else there is a rest of a request
                c.push(c.request(READ, 1, 0, SIZE))
            c.push(c.rest)
        # In negotiation its time is bounded by handshake-timeout, whatever TCP knows.
        self.play(self.space + "p", "10.0.0.2", self.space, {"target-silent": 5, "target-timeout": 1},
                  lambda c: c.state.enter(c), strike, "3s")

    def test_a_host_that_is_gone_is_noticed_whatever_is_under_way(self):
        under_way = {}

        def begin(c):
            if c.state in (Idle, Header, Payload, Held):  # whose other side would have nothing to say
                c.push(c.request(READ, 1, 0, SIZE))
                under_way[c] = c.take()[1]
            if c.state is not Idle:
                c.state.enter(c)
            if c.state is Negotiation:
                c.push(c.rest)

        def strike(c):
            if c in under_way:
                c.target.sendall(c.answer(under_way[c], DATA))
            elif c.state is Reply:
                c.target.sendall(c.target_rest)
            else:  # an option
                c.target.sendall(c.state.opened(c))
        self.play(self.space, "127.0.0.1", self.space + "p", {"host-silent": 6}, begin, strike, "60s")


class Exhaustion(FaultCase):
    def test_peers_that_only_do_not_read_are_waited_for_beyond_peer_timeout(self):
        gateway, store, bystander = self.world_with(gateway="peer-timeout = 1s")
        c = Case(gateway, store, b"x", Idle)
        self.addCleanup(c.close)
        # Sockets grow with what they carry, to megabytes each; the ends of this way are told not to, and 30 MiB fit nowhere.
        c.target.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * KIB)
        c.host.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * KIB)
        c.push(b"".join(c.request(READ, i, 0, 512 * KIB) for i in range(60)))
        wire = [c.take()[1] for _ in range(60)]
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            sending = pool.submit(lambda: [c.target.sendall(c.answer(w, bytes(512 * KIB))) for w in wire])
            time.sleep(4)
            self.assertFalse(sending.done())
            self.assertEqual([c.read_reply()[0] for _ in range(60)], list(range(60)))
        bystander.check()

    def test_without_descriptors_hosts_are_refused_or_wait_and_those_there_go_on(self):
        gateway, store, bystander = self.world_with()
        cases = []
        for name, state in STATES.items():
            cases.append(Case(gateway, store, (b"held-" if state is Held else b"x-") + name.encode(), state))
            self.addCleanup(cases[-1].close)
            state.enter(cases[-1])
        pid = gateway.local(get="status")["status"].get("manager", {}).get("workerPid", gateway.pid)
        used = len(os.listdir(f"/proc/{pid}/fd"))
        subprocess.run(["prlimit", "--pid", str(pid), f"--nofile={used + 5}:"], check=True)
        hosts = [Host(gateway.address, handshake=False) for _ in range(12)]
        for h in hosts:
            self.addCleanup(h.sock.close)
        bystander.check()
        wait_until(lambda: "Too many open files" in gateway.output(), "descriptors to run out")
        for c in cases:  # whatever was under way goes on
            c.finish()
            c.balance()
            c.close()
        subprocess.run(["prlimit", "--pid", str(pid), "--nofile=1024:"], check=True)
        for h in hosts:
            h.sock.close()
        wait_until(lambda: self.connections(gateway)["accepted"] == 13 + len(cases) and self.connections(gateway)["active"] == 1,
                   "all let in, and only the bystander left")
        time.sleep(0.2)  # what the target has still to accept
        while not store.accepted.empty():
            store.take().close()
        c = Case(gateway, store, b"x", Idle)
        self.addCleanup(c.close)
        exchange(c)
        bystander.check()


if __name__ == "__main__":
    weirtest.main()
