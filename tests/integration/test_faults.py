# SPDX-License-Identifier: Apache-2.0
"""Goal: whatever breaks, and at whatever point of the protocol, nothing is lost, altered, answered twice or answered by the
gateway; the guilty connection alone closes, for a reason that has the right name and is counted once.
Method: a table of states and one of faults. Each pair is a case of its own: a host and a target by hand are brought into the
state through one gateway, the fault strikes, and either the connection closes by the name in the table, or it lives, and what
was under way is finished and verified. A ledger of both ends is compared after each case: what the target got is what the host
sent, byte for byte and once; what the host got is what the target said. All through it a bystander on the same listener and
target writes, reads back and compares without a pause, on one connection that must never break."""
import concurrent.futures
import contextlib
import os
import signal
import socket
import struct
import subprocess
import time

import rawnbd
import weirtest
from faultplay import (DATA, GARBAGE, KIB, LIVES, MIB, STATES, Bystander, Case, FaultCase, Held, Negotiation, Reply, Store,
                       answer_write, config)
from rawnbd import DISC, READ, WRITE, receive, request
from weirtest import wait_until


# --- faults ---


def slowly(sock, data):
    for i in range(len(data)):
        sock.sendall(data[i:i + 1])


def host_kill(c):
    """The process that has the host's socket is killed."""
    child = subprocess.Popen(["sleep", "600"], pass_fds=[c.host.sock.fileno()])
    c.host.sock.close()
    child.kill()
    child.wait()


def target_kill(c):
    child = subprocess.Popen(["sleep", "600"], pass_fds=[c.target.fileno()])
    c.target.close()
    child.kill()
    child.wait()


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def host_bytewise(c):
    """What is left of its request, or a new one."""
    rest, c.rest = c.rest, b""
    if rest:
        slowly(c.host.sock, rest)
        if c.state is Negotiation:
            c.state.answer(c)
        else:
            answer_write(c)
        return
    slowly(c.host.sock, c.request(READ, 0xC7, 0, 64))
    finish_first(c)
    _, cookie, _, _ = c.take()
    c.target.sendall(c.answer(cookie, DATA[:64]))
    assert c.read_reply() == (0xC7, 0, DATA[:64])


def refuse(c):
    """In negotiation: the option that has been begun is completed, and the target refuses it."""
    c.push(c.rest)
    receive(c.target, 16 + 6 + len(c.export))
    c.target.sendall(struct.pack(">QIII", rawnbd.REP_MAGIC, rawnbd.OPT_GO, 0x80000006, 0))
    assert struct.unpack(">QIII", receive(c.host.sock, 20))[2] == 0x80000006


def host_garbage(c):
    """What is under way is completed first, so that the garbage cannot be taken for a part of it."""
    if c.state is Negotiation:
        refuse(c)
    else:
        c.push(c.rest)
    c.push(GARBAGE)


def host_too_much(c):
    """A write with more payload than it said."""
    c.push(c.rest + c.request(WRITE, 0xC0, 0, 100, bytes(100)) + bytes(64))


def host_option_flood(c):
    """More options than any host needs, each unknown."""
    refuse(c)
    one = rawnbd.IHAVEOPT + struct.pack(">II", 0x7777, 0)
    with contextlib.suppress(OSError):
        c.push(one * 3000)


def host_long_option(c):
    refuse(c)
    c.push(rawnbd.IHAVEOPT + struct.pack(">II", rawnbd.OPT_GO, 0xFFFFFFFF))


def host_negative_read(c):
    """A read of 4 GiB less one: as the length says if it is taken for a number with a sign, of -1. The target refuses it."""
    c.push(c.rest + c.request(READ, 0xC1, 1 << 63, 0xFFFFFFFF))
    finish_first(c)
    _, cookie, _, length = c.take()
    assert length == 0xFFFFFFFF
    c.target.sendall(c.answer(cookie, error=rawnbd.EINVAL))
    assert c.read_reply() == (0xC1, rawnbd.EINVAL, b"")


def host_endless_write(c):
    """A write of 4 GiB less one, of which little comes before the host goes."""
    c.push(c.rest + request(WRITE, 0xC2, 0, 0xFFFFFFFF) + bytes(1000))
    c.sent.append((WRITE, 0, 0xFFFFFFFF, b""))
    finish_first(c)
    c.take()
    assert receive(c.target, 1000) == bytes(1000)
    c.host.sock.close()


def host_duplicate_cookies(c):
    """Three reads by one cookie, answered in another order."""
    c.push(c.rest + b"".join(c.request(READ, 0xC3, i * 512, 512) for i in range(3)))
    finish_first(c)
    wire = [c.take() for _ in range(3)]
    assert len({w[1] for w in wire}) == 3
    for w in (wire[2], wire[0], wire[1]):
        c.target.sendall(c.answer(w[1], bytes([w[2] // 512]) * 512))
    assert [c.read_reply()[2][0] for _ in range(3)] == [2, 0, 1]


def finish_first(c):
    """What was under way before the fault is done, so that it can be looked at alone."""
    if c.rest:
        c.rest = b""
        answer_write(c)
    elif c.target_rest:
        Reply.finish(c)
        c.target_rest = b""


def host_slow_reader(c):
    """The host reads nothing while replies beyond all buffers come."""
    c.push(c.rest + b"".join(c.request(READ, 0xD0 + i, 0, 256 * KIB) for i in range(40)))
    finish_first(c)
    wire = [c.take()[1] for _ in range(40)]
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        def answer():
            for i, w in enumerate(wire):
                c.target.sendall(c.answer(w, bytes([i]) * (256 * KIB)))
        sending = pool.submit(answer)
        time.sleep(0.1)
        for i in range(40):
            assert c.read_reply() == (0xD0 + i, 0, bytes([i]) * (256 * KIB))
        sending.result()


def host_disc(c):
    c.push(c.rest + request(DISC, 0xE0))
    finish_first(c)
    if c.state is Held and len(c.got) < len(c.sent):
        answer_write(c)
    assert struct.unpack(">IHHQQI", receive(c.target, 28))[2] == DISC
    c.target.close()


def target_slow(c):
    time.sleep(0.25)


def target_garbage(c):
    c.push(c.rest)
    c.target.sendall(c.target_rest + GARBAGE)


def target_bytewise(c):
    """The rest of the reply, or a new one, byte by byte."""
    rest = c.target_rest
    if c.state is Negotiation:
        c.push(c.rest)
        c.rest = b""
        c.state.answer(c, slowly)
        return
    if rest:
        slowly(c.target, rest)
        c.target_rest = b""
        assert c.read_reply() == (0xA3, 0, DATA)
        return
    c.push(c.rest + c.request(READ, 0xC5, 0, 64))
    finish_first(c)
    _, cookie, _, _ = c.take()
    slowly(c.target, c.answer(cookie, DATA[:64]))
    assert c.read_reply() == (0xC5, 0, DATA[:64])


def with_a_read(c):
    """A read that the target has."""
    c.push(c.rest + c.request(READ, 0xC6, 0, 64))
    finish_first(c)
    return c.take()[1]


def target_twice(c):
    """The second answer must not reach the host."""
    whole = c.answer(with_a_read(c), DATA[:64])
    c.target.sendall(whole + whole)


def target_stranger(c):
    c.target.sendall(struct.pack(">IIQ", rawnbd.SIMPLE_MAGIC, 0, with_a_read(c) ^ 0x123400000001))


def target_too_much(c):
    c.target.sendall(c.answer(with_a_read(c), DATA[:64]) + DATA[:64])


def target_wrong_form(c):
    """A structured chunk where only simple replies were agreed."""
    c.target.sendall(struct.pack(">IHHQI", rawnbd.CHUNK_MAGIC, 1, 0, with_a_read(c), 0))


def target_error(c):
    c.target.sendall(c.answer(with_a_read(c), error=5))
    assert c.read_reply() == (0xC6, 5, b"")


def target_not_reading(c):
    """The target takes nothing while more comes than all buffers hold."""
    big = b"".join(c.request(WRITE, 0x100 + i, 0, MIB, bytes([i]) * MIB) for i in range(12))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        sending = pool.submit(c.push, c.rest + big)
        time.sleep(0.1)
        finish_first(c)
        for _ in range(12):
            _, cookie, _, _ = c.take()
            c.target.sendall(c.answer(cookie))
        for i in range(12):
            assert c.read_reply() == (0x100 + i, 0, b"")
        sending.result()


def target_long_answer(c):
    """An answer to the option with a payload of 4 GiB less one."""
    c.push(c.rest)
    receive(c.target, 16 + 6 + len(c.export))
    c.target.sendall(struct.pack(">QIII", rawnbd.REP_MAGIC, rawnbd.OPT_GO, rawnbd.REP_INFO, 0xFFFFFFFF))


def target_other_option(c):
    c.push(c.rest)
    receive(c.target, 16 + 6 + len(c.export))
    c.target.sendall(struct.pack(">QIII", rawnbd.REP_MAGIC, rawnbd.OPT_LIST, rawnbd.REP_ACK, 0))


def gateway_stopped(c):
    """As after a machine's suspend: all clocks jump."""
    os.kill(c.gateway.pid, signal.SIGSTOP)
    time.sleep(0.15)
    os.kill(c.gateway.pid, signal.SIGCONT)


def shut(sock):
    sock.shutdown(socket.SHUT_WR)


def everywhere(value, but=()):
    return {**{s: value for s in STATES}, **dict(but)}


def transmission(value, but=()):
    return {**{s: value for s in STATES if s != "negotiation"}, **dict(but)}


# fault: (what happens, {state: what becomes of the connection}). A state that is not named makes no sense with the fault. Two
# reasons: a socket closed with bytes unread sends RST, and whether they are read is a race that no side can win.
FAULTS = {
    "host closes": (lambda c: c.host.sock.close(), everywhere("host-vanished", {"reply": ("host-vanished", "host-reset")})),
    "host resets": (lambda c: reset(c.host.sock), everywhere("host-reset")),
    "host is killed": (host_kill, everywhere("host-vanished", {"reply": ("host-vanished", "host-reset")})),
    "host half closes": (lambda c: shut(c.host.sock), everywhere("host-vanished")),
    "host sends garbage": (host_garbage, everywhere("host-protocol")),
    "host sends too much": (host_too_much, transmission("host-protocol")),
    "host floods with options": (host_option_flood, {"negotiation": "host-protocol"}),
    "host sends an endless option": (host_long_option, {"negotiation": "host-protocol"}),
    "host reads a negative length": (host_negative_read, transmission(LIVES)),
    "host writes without end": (host_endless_write, transmission("host-vanished", {"held": None})),
    "host repeats cookies": (host_duplicate_cookies, transmission(LIVES)),
    "host sends byte by byte": (host_bytewise, everywhere(LIVES)),
    "host reads nothing for a while": (host_slow_reader, transmission(LIVES)),
    "host disconnects": (host_disc, transmission("host-disconnected")),
    "target closes": (lambda c: c.target.close(), everywhere("target-closed", {"payload": ("target-closed", "target-reset")})),
    "target resets": (lambda c: reset(c.target), everywhere("target-reset")),
    "target is killed": (target_kill, everywhere("target-closed", {"payload": ("target-closed", "target-reset")})),
    "target half closes": (lambda c: shut(c.target), everywhere("target-closed")),
    "target sends garbage": (target_garbage, everywhere("target-protocol")),
    "target answers twice": (target_twice, transmission("target-protocol")),
    "target answers a stranger": (target_stranger, transmission("target-protocol")),
    "target answers too much": (target_too_much, transmission("target-protocol")),
    "target answers in another form": (target_wrong_form, transmission("target-protocol")),
    "target answers with an error": (target_error, transmission(LIVES)),
    "target is slow": (target_slow, everywhere(LIVES)),
    "target answers byte by byte": (target_bytewise, everywhere(LIVES)),
    "target reads nothing for a while": (target_not_reading, transmission(LIVES, {"held": None, "reply": None})),
    "target answers an option without end": (target_long_answer, {"negotiation": "target-protocol"}),
    "target answers another option": (target_other_option, {"negotiation": "target-protocol"}),
    "gateway stands still for a while": (gateway_stopped, everywhere(LIVES)),
}


class Matrix(FaultCase):
    @classmethod
    def setUpClass(cls):
        cls.world = weirtest.World()
        cls.world.__enter__()
        cls.addClassCleanup(lambda: cls.world.__exit__(None, None, None))
        cls.store = Store()
        cls.addClassCleanup(cls.store.close)
        cls.gateway = cls.world.gateway(config=config(cls.store.uri))
        cls.bystander = Bystander(cls.gateway, cls.store)
        cls.count = 0

    def strike(self, state_name, fault, expected):
        state = STATES[state_name]
        Matrix.count += 1
        goes = expected in (LIVES, "host-disconnected")
        export = (f"case-{self.count % 8}" if state is not Held else f"{'held' if goes else 'stuck'}-{self.count}").encode()
        before = self.connections(self.gateway)["closed"]
        c = Case(self.gateway, self.store, export, state)
        try:
            state.enter(c)
            if state is Held:
                # One that goes may have gone before anybody looked.
                wait_until(lambda: self.held(export, goes), "a held write", step=0.002)
            FAULTS[fault][0](c)
            if expected == LIVES:
                c.finish()
                host_disc(c)
                expected = "host-disconnected"
            elif fault.startswith("host") and c.target_rest:
                # The target has its say before the connection ends.
                with contextlib.suppress(OSError):
                    c.target.sendall(c.target_rest)
            self.wait_closed(self.gateway, before, expected if isinstance(expected, tuple) else (expected,))
            c.drain()
            c.balance()
            if fault == "host half closes":
                self.assertEqual(len(c.replies), len(c.answers))
            if state is Held and expected in ("host-vanished", "host-reset", "target-closed", "target-reset"):
                self.assertEqual(len(c.got), 1, "what was held went although nobody waits for it")
        finally:
            c.close()
        self.assertEqual(self.connections(self.gateway)["active"], 1)
        if state is not Negotiation:
            s = self.stream(export)
            self.assertEqual(s["heldNow"], 0)
            for op, n in s["counters"].items():
                self.assertEqual(n["arrivals"], n["completions"] + n["dropped"], op)
        self.bystander.check()

    def held(self, export, goes):
        s = self.stream(export)
        return s["heldNow"] == 1 or goes and s["counters"]["write"]["held"] == 1

    def stream(self, export):
        return next(s for s in self.gateway.local(get="streams")["streams"] if s["volume"] == export.decode())


def matrix_test(fault, outcomes):
    def test(self):
        for state, expected in outcomes.items():
            if expected is not None:
                with self.subTest(state=state):
                    self.strike(state, fault, expected)
    return test


for _fault, (_, _outcomes) in FAULTS.items():
    setattr(Matrix, "test_" + _fault.replace(" ", "_"), matrix_test(_fault, _outcomes))


if __name__ == "__main__":
    weirtest.main()
