# SPDX-License-Identifier: Apache-2.0
"""Goal: whatever breaks, and at whatever point of the protocol, nothing is lost, altered, answered twice or answered by the
gateway; the guilty connection alone closes, for a reason that has the right name and is counted once.
Method: a table of states and one of faults. Each pair is a case of its own: a host and a target by hand are brought into the
state through one gateway, the fault strikes, and either the connection closes by the name in the table, or it lives, and what
was under way is finished and verified. A ledger of both ends is compared after each case: what the target got is what the host
sent, byte for byte and once; what the host got is what the target said. All through it a bystander on the same listener and
target writes, reads back and compares without a pause, on one connection that must never break."""
import collections
import concurrent.futures
import contextlib
import ctypes
import os
import queue
import random
import signal
import socket
import struct
import subprocess
import threading
import time
import unittest

import rawnbd
import weirtest
from rawnbd import DISC, READ, WRITE, Host, receive, request
from weirtest import wait_until

KIB, MIB = 1 << 10, 1 << 20
LIVES = "lives"
SIZE = 8192
HALF = SIZE // 2
DATA = random.Random(1).randbytes(SIZE)
GARBAGE = b"\xde\xad\xbe\xef" * 32


def config(target, gateway="", limits=""):
    return (f"[gateway]\nmax-hold = 600s\n{gateway}\n[listener l]\naddress = 127.0.0.1:0\ntarget = t\n"
            f"[target t]\nuri = {target}\n[limit held]\nvolume = held-*\nper = stream\niops-write = 1\n{limits}")


class Store:
    """A target by hand. Its first connection serves the bystander out of memory; later ones are handed to the cases."""
    size, extended, structured = 1 << 30, False, False

    def __init__(self, address="127.0.0.1"):
        self.listener = socket.socket()
        self.listener.bind((address, 0))
        self.listener.listen(128)
        self.port = self.listener.getsockname()[1]
        self.uri = f"nbd://{address}:{self.port}"
        self.accepted = queue.Queue()
        self.memory = bytearray(MIB)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self.listener.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.settimeout(rawnbd.PATIENCE)
                self.accepted.put(sock)

    def take(self):
        return self.accepted.get(timeout=rawnbd.PATIENCE)

    def serve(self, sock):
        sock.settimeout(None)
        with contextlib.suppress(EOFError, OSError):
            rawnbd.Session(self, sock).handshake()
            while True:
                _, _, kind, cookie, offset, length = struct.unpack(">IHHQQI", receive(sock, 28))
                if kind == WRITE:
                    self.memory[offset:offset + length] = receive(sock, length)
                data = bytes(self.memory[offset:offset + length]) if kind == READ else b""
                sock.sendall(struct.pack(">IIQ", rawnbd.SIMPLE_MAGIC, 0, cookie) + data)


class Bystander(threading.Thread):
    """Writes, reads back and compares for as long as it is let."""

    def __init__(self, gateway, store):
        super().__init__(daemon=True)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            serving = pool.submit(store.take)
            self.host = Host(gateway.address, handshake=False)
            threading.Thread(target=store.serve, args=(serving.result(),), daemon=True).start()
        self.host.greet()
        self.host.go(b"bystander")
        self.rounds, self.error, self.ending = 0, None, False
        self.start()

    def run(self):
        rng = random.Random(2)
        try:
            while not self.ending:
                data, offset = rng.randbytes(rng.choice([512, 4096, 16384])), rng.randrange(0, MIB - 16384)
                self.host.send(WRITE, 2 * self.rounds, offset, len(data), payload=data)
                self.host.send(READ, 2 * self.rounds + 1, offset, len(data))
                if self.host.reply() != (2 * self.rounds, 0, b""):
                    raise AssertionError("a write answered wrongly")
                if self.host.reply(len(data)) != (2 * self.rounds + 1, 0, data):
                    raise AssertionError("read back something else than was written")
                self.rounds += 1
                time.sleep(0.002)
        except (AssertionError, EOFError, OSError) as e:
            self.error = e

    def check(self):
        """It has done at least one whole round since this was called, and none failed."""
        before = self.rounds
        wait_until(lambda: self.error or self.rounds > before + 1, "the bystander's I/O", step=0.002)
        if self.error:
            raise AssertionError(f"the bystander was hurt after {self.rounds} rounds: {self.error!r}")


class Case:
    """Both ends of one connection, and the ledger of what they sent and got."""

    def __init__(self, gateway, store, export, state):
        self.gateway, self.state = gateway, state
        self.sent, self.got = [], []        # requests: of the host, at the target
        self.answers, self.replies = [], [] # replies: of the target, at the host
        self.reads = {}                     # cookie of the host: length
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            accepting = pool.submit(store.take)
            self.host = Host(gateway.address, handshake=False)
            self.target = accepting.result()
            self.export = export
            self.rest = self.target_rest = b""
            self.session = rawnbd.Session(store, self.target)
            if state.handshake:
                shaking = pool.submit(self.session.handshake)
                self.host.greet()
                self.host.go(export)
                shaking.result()
        self.host.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self):
        self.host.sock.close()
        self.target.close()

    def finish(self):
        """Do what is left to do, whole and verified, and one thing more."""
        if self.rest or self.target_rest or self.state in (Negotiation, Held):
            self.state.finish(self)
            self.rest = self.target_rest = b""
        if self.state is not Held:
            exchange(self)

    # --- the host ---
    def request(self, kind, cookie, offset, length, payload=b""):
        """The bytes of a request, which is in the ledger from now on."""
        self.sent.append((kind, offset, length, payload))
        if kind == READ:
            self.reads.setdefault(cookie, []).append(length)
        return request(kind, cookie, offset, length, payload=payload)

    def push(self, data):
        self.host.sock.sendall(data)

    def read_reply(self):
        magic, error, cookie = struct.unpack(">IIQ", receive(self.host.sock, 16))
        assert magic == rawnbd.SIMPLE_MAGIC, hex(magic)
        reads = self.reads.get(cookie)
        data = receive(self.host.sock, reads.pop(0)) if error == 0 and reads else b""
        self.replies.append((cookie, error, data))
        return cookie, error, data

    # --- the target ---
    def take(self):
        """The next request at the target, as (kind, cookie, offset, length)."""
        magic, flags, kind, cookie, offset, length = struct.unpack(">IHHQQI", receive(self.target, 28))
        assert (magic, flags) == (rawnbd.REQUEST_MAGIC, 0), (hex(magic), flags)
        payload = receive(self.target, length) if kind == WRITE and length < 1 << 31 else b""
        self.got.append((kind, offset, length, payload))
        return kind, cookie, offset, length

    def answer(self, cookie, data=b"", error=0):
        self.answers.append((error, data))
        return struct.pack(">IIQ", rawnbd.SIMPLE_MAGIC, error, cookie) + data

    # --- the ledger ---
    def drain(self):
        """All that still comes out of the gateway at either end, cut into whole requests and replies."""
        with contextlib.suppress(EOFError, OSError, struct.error, AssertionError):
            while True:
                self.read_reply()
        with contextlib.suppress(EOFError, OSError, struct.error, AssertionError):
            while True:
                self.take()

    def balance(self):
        """Nothing at one end that the other did not send, and nothing twice."""
        left = collections.Counter(self.sent)
        left.subtract(self.got)
        assert all(n >= 0 for n in left.values()), f"the target got what was not sent, or twice: {left}"
        left = collections.Counter(self.answers)
        left.subtract((error, data) for _, error, data in self.replies)
        assert all(n >= 0 for n in left.values()), f"the host got what the target did not say, or twice: {left}"


# --- states: how a case comes into one, and what is left to do from there ---


class Negotiation:
    """In the middle of an option."""
    handshake = False

    @staticmethod
    def enter(c):
        c.target.sendall(rawnbd.NBDMAGIC + rawnbd.IHAVEOPT + struct.pack(">H", 3))
        c.host.greet()
        receive(c.target, 4)
        go = rawnbd.IHAVEOPT + struct.pack(">III", rawnbd.OPT_GO, 6 + len(c.export), len(c.export)) + c.export + b"\0\0"
        c.push(go[:18])
        c.rest = go[18:]

    @staticmethod
    def finish(c):
        c.push(c.rest)
        receive(c.target, 16 + 6 + len(c.export))
        info = struct.pack(">HQH", 0, Store.size, 0x6d)
        answer = (struct.pack(">QIII", rawnbd.REP_MAGIC, rawnbd.OPT_GO, rawnbd.REP_INFO, len(info)) + info +
                  struct.pack(">QIII", rawnbd.REP_MAGIC, rawnbd.OPT_GO, rawnbd.REP_ACK, 0))
        c.target.sendall(answer)
        assert receive(c.host.sock, len(answer)) == answer
        exchange(c)


class Idle:
    """Nothing under way."""
    handshake = True

    @staticmethod
    def enter(c):
        exchange(c)
        c.rest = b""



class Header:
    """In the middle of a request's header."""
    handshake = True

    @staticmethod
    def enter(c):
        whole = c.request(WRITE, 0xA1, 4096, SIZE, DATA)
        c.push(whole[:14])
        c.rest = whole[14:]

    @staticmethod
    def finish(c):
        c.push(c.rest)
        answer_write(c)


class Payload:
    """In the middle of a write's payload, which the target has been getting already."""
    handshake = True

    @staticmethod
    def enter(c):
        whole = c.request(WRITE, 0xA2, 4096, SIZE, DATA)
        c.push(whole[:28 + HALF])
        c.rest = whole[28 + HALF:]
        # The start is not taken off the target's socket, only seen there: take() will read the whole.
        wait_until(lambda: len(c.target.recv(28 + HALF, socket.MSG_PEEK)) == 28 + HALF, "half a write", step=0.002)

    finish = Header.finish


class Reply:
    """In the middle of a reply's data, which the host has been getting already."""
    handshake = True

    @staticmethod
    def enter(c):
        c.push(c.request(READ, 0xA3, 0, SIZE))
        _, cookie, _, _ = c.take()
        whole = c.answer(cookie, DATA)
        c.target.sendall(whole[:16 + HALF])
        c.target_rest = whole[16 + HALF:]
        wait_until(lambda: len(c.host.sock.recv(16 + HALF, socket.MSG_PEEK)) == 16 + HALF, "half a reply", step=0.002)

    @staticmethod
    def finish(c):
        c.target.sendall(c.target_rest)
        assert c.read_reply() == (0xA3, 0, DATA)


class Held:
    """A write is held behind one that went."""
    handshake = True

    @staticmethod
    def enter(c):
        for cookie, offset in ((0xA4, 0), (0xA5, SIZE)):
            c.push(c.request(WRITE, cookie, offset, SIZE, DATA))
        _, cookie, _, _ = c.take()
        c.target.sendall(c.answer(cookie))
        assert c.read_reply()[0] == 0xA4

    @staticmethod
    def finish(c):
        answer_write(c)


STATES = {"negotiation": Negotiation, "idle": Idle, "header": Header, "payload": Payload, "reply": Reply, "held": Held}


def answer_write(c):
    kind, cookie, _, _ = c.take()
    assert kind == WRITE
    c.target.sendall(c.answer(cookie))
    assert c.read_reply()[1:] == (0, b"")


def exchange(c, cookie=0xB0):
    """A write and a read of its data."""
    c.push(c.request(WRITE, cookie, 0, SIZE, DATA))
    answer_write(c)
    c.push(c.request(READ, cookie + 1, 0, SIZE))
    _, wire, _, _ = c.take()
    c.target.sendall(c.answer(wire, DATA))
    assert c.read_reply() == (cookie + 1, 0, DATA)


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
    rest, c.rest = c.rest, b""
    slowly(c.host.sock, rest)
    answer_write(c)


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
    "host sends byte by byte": (host_bytewise, {s: LIVES for s in ("header", "payload")}),
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
    "target answers byte by byte": (target_bytewise, transmission(LIVES)),
    "target reads nothing for a while": (target_not_reading, transmission(LIVES, {"held": None, "reply": None})),
    "target answers an option without end": (target_long_answer, {"negotiation": "target-protocol"}),
    "target answers another option": (target_other_option, {"negotiation": "target-protocol"}),
    "gateway stands still for a while": (gateway_stopped, everywhere(LIVES)),
}


class FaultCase(unittest.TestCase):
    def world_with(self, text=config, **kw):
        """A world of its own: (gateway, store, bystander)."""
        world = weirtest.World()
        world.__enter__()
        self.addCleanup(lambda: world.__exit__(None, None, None))
        store = Store()
        self.addCleanup(store.close)
        gateway = world.gateway(config=text(store.uri, **kw))
        return gateway, store, Bystander(gateway, store)

    @staticmethod
    def connections(gateway):
        return gateway.local(get="status")["status"]["connections"]

    def wait_closed(self, gateway, before, expected):
        """Exactly one connection has closed since, for one of the reasons in @expected."""
        def closed():
            after = self.connections(gateway)["closed"]
            return {k: n - before[k] for k, n in after.items() if n != before[k]}
        wait_until(closed, f"a connection closed as {expected}", step=0.005)
        self.assertEqual(sum(closed().values()), 1, closed())
        self.assertIn(next(iter(closed())), expected)


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
        export = (f"held-{self.count}" if state is Held else f"case-{self.count % 8}").encode()
        before = self.connections(self.gateway)["closed"]
        c = Case(self.gateway, self.store, export, state)
        try:
            state.enter(c)
            if state is Held:
                wait_until(lambda: self.stream(export)["heldNow"] == 1, "a held write", step=0.002)
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

    def stream(self, export):
        return next(s for s in self.gateway.local(get="streams")["streams"] if s["volume"] == export.decode())


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

    def play(self, target_space, target_address, host_space, expected, strike):
        world = weirtest.World()
        world.__enter__()
        self.addCleanup(lambda: world.__exit__(None, None, None))
        store = self.within(target_space, lambda: Store(target_address))
        self.addCleanup(store.close)
        g = self.within(self.space, lambda: world.gateway(config=config(
            store.uri, "peer-timeout = 1s").replace("127.0.0.1:0", "10.0.0.1:0")))
        c = self.within(host_space, lambda: Case(g, store, b"x", Idle))
        self.addCleanup(c.close)
        exchange(c)
        before = self.connections(g)["closed"]
        strike(c, lambda: subprocess.run(["ip", "-n", self.space + "p", "link", "set", "veth-b", "down"], check=True))
        self.wait_closed(g, before, (expected,))

    def test_a_target_that_is_gone_with_a_request_under_way_is_noticed(self):
        def strike(c, cut):
            cut()
            c.push(c.request(WRITE, 1, 0, SIZE, DATA))
        self.play(self.space + "p", "10.0.0.2", self.space, "target-silent", strike)

    def test_a_host_that_is_gone_with_a_reply_under_way_is_noticed(self):
        def strike(c, cut):
            c.push(c.request(READ, 1, 0, SIZE))
            _, cookie, _, _ = c.take()
            cut()
            c.target.sendall(c.answer(cookie, DATA))
        self.play(self.space, "127.0.0.1", self.space + "p", "host-silent", strike)


class Exhaustion(FaultCase):
    def test_peers_that_only_do_not_read_are_waited_for_beyond_peer_timeout(self):
        gateway, store, bystander = self.world_with(gateway="peer-timeout = 1s")
        c = Case(gateway, store, b"x", Idle)
        self.addCleanup(c.close)
        c.push(b"".join(c.request(READ, i, 0, 256 * KIB) for i in range(60)))
        wire = [c.take()[1] for _ in range(60)]
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            sending = pool.submit(lambda: [c.target.sendall(c.answer(w, bytes(256 * KIB))) for w in wire])
            time.sleep(4)
            self.assertFalse(sending.done())
            self.assertEqual([c.read_reply()[0] for _ in range(60)], list(range(60)))
        bystander.check()

    def test_without_descriptors_hosts_are_refused_or_wait_and_those_there_go_on(self):
        gateway, store, bystander = self.world_with()
        pid = gateway.local(get="status")["status"].get("manager", {}).get("workerPid", gateway.pid)
        used = len(os.listdir(f"/proc/{pid}/fd"))
        subprocess.run(["prlimit", "--pid", str(pid), f"--nofile={used + 5}:"], check=True)
        hosts = [Host(gateway.address, handshake=False) for _ in range(12)]
        for h in hosts:
            self.addCleanup(h.sock.close)
        bystander.check()
        wait_until(lambda: "Too many open files" in gateway.output(), "descriptors to run out")
        subprocess.run(["prlimit", "--pid", str(pid), "--nofile=1024:"], check=True)
        for h in hosts:
            h.sock.close()
        wait_until(lambda: self.connections(gateway)["accepted"] == 13 and self.connections(gateway)["active"] == 1,
                   "all let in, and only the bystander left")
        time.sleep(0.2)  # what the target has still to accept
        while not store.accepted.empty():
            store.take().close()
        c = Case(gateway, store, b"x", Idle)
        self.addCleanup(c.close)
        exchange(c)
        bystander.check()


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
