# SPDX-License-Identifier: Apache-2.0
"""The control protocol on the wire, for tests: frames encoded and decoded after src/control/control.proto itself.

A second, independent reading of the schema, so that a mistake of the C side is not shared. Only what proto3 needs
here: uint32, uint64, int32, bool, enum, string, bytes, messages, repeated (packed numbers). Encoding:
Protocol Buffers, "Encoding".
"""
import hashlib
import hmac
import os
import re
import socket
import struct

PROTO = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "src", "control", "control.proto")
FRAME_MAX = 1 << 20


class Closed(Exception):
    """The peer closed the connection."""


def _read_schema():
    with open(PROTO, encoding="utf-8") as f:
        text = re.sub(r"//[^\n]*", "", f.read())
    enums = {name: {k: int(v) for k, v in re.findall(r"(\w+)\s*=\s*(\d+)", body)}
             for name, body in re.findall(r"enum\s+(\w+)\s*\{([^}]*)\}", text)}
    messages = {}
    for name, body in re.findall(r"message\s+(\w+)\s*\{((?:[^{}]|\{[^{}]*\})*)\}", text):
        body = re.sub(r"oneof\s+\w+\s*\{([^}]*)\}", r"\1", body)
        messages[name] = {field: (kind, int(number), bool(repeated)) for repeated, kind, field, number in
                          re.findall(r"(repeated\s+)?(\w+)\s+(\w+)\s*=\s*(\d+)\s*;", body)}
    return enums, messages


ENUMS, MESSAGES = _read_schema()
NUMBERS = {"uint32", "uint64", "int32", "bool"} | set(ENUMS)


def varint(n):
    n &= (1 << 64) - 1
    out = bytearray()
    while n >= 0x80:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def _one(kind, number, value):
    if kind in NUMBERS:
        return varint(number << 3) + varint(int(value))
    if kind == "string":
        value = value.encode() if isinstance(value, str) else value
    elif kind != "bytes":
        value = encode(kind, value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def encode(message, values):
    """The bytes of @message ("Hello") from a dict."""
    out = b""
    for field, value in values.items():
        kind, number, repeated = MESSAGES[message][field]
        if repeated and kind in NUMBERS:
            body = b"".join(varint(int(v)) for v in value)
            out += varint(number << 3 | 2) + varint(len(body)) + body
        elif repeated:
            out += b"".join(_one(kind, number, v) for v in value)
        else:
            out += _one(kind, number, value)
    return out


def _take_varint(data, at):
    n = shift = 0
    while True:
        byte = data[at]
        at += 1
        n |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return n, at


def _number(kind, n):
    if kind == "bool":
        return bool(n)
    return n - (1 << 64) if kind == "int32" and n >= 1 << 63 else n


def decode(message, data):
    """A dict of the fields that are there; repeated ones always."""
    fields = {number: (name, kind, repeated) for name, (kind, number, repeated) in MESSAGES[message].items()}
    out = {name: [] for name, kind, repeated in fields.values() if repeated}
    at = 0
    while at < len(data):
        tag, at = _take_varint(data, at)
        name, kind, repeated = fields[tag >> 3]
        if tag & 7 == 0:
            n, at = _take_varint(data, at)
            value = _number(kind, n)
        else:
            size, at = _take_varint(data, at)
            raw, at = data[at:at + size], at + size
            if kind in NUMBERS:
                inner = 0
                while inner < len(raw):
                    n, inner = _take_varint(raw, inner)
                    out[name].append(_number(kind, n))
                continue
            value = raw if kind == "bytes" else raw.decode() if kind == "string" else decode(kind, raw)
        if repeated:
            out[name].append(value)
        else:
            out[name] = value
    return out


def frame(body, values):
    """A whole frame: body "hello", "poll" ... with its fields."""
    packed = encode("Frame", {body: values})
    return struct.pack(">I", len(packed)) + packed


class Wire:
    """A connection that speaks frames."""

    def __init__(self, address, timeout=20):
        if address.startswith("unix:"):
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(timeout)
            self.sock.connect(address[5:])
        else:
            host, port = address.rsplit(":", 1)
            self.sock = socket.create_connection((host.strip("[]"), int(port)), timeout)
        self.rest = b""

    def send(self, body, **values):
        try:
            self.sock.sendall(frame(body, values))
        except ConnectionError as e:
            raise Closed() from e

    def receive(self):
        """(body, fields) of the next frame."""
        while True:
            if len(self.rest) >= 4:
                size = struct.unpack(">I", self.rest[:4])[0]
                if len(self.rest) >= 4 + size:
                    packed, self.rest = self.rest[4:4 + size], self.rest[4 + size:]
                    fields = decode("Frame", packed)
                    return next(iter(fields.items()))
            try:
                more = self.sock.recv(1 << 16)
            except ConnectionError as e:
                raise Closed() from e
            if not more:
                raise Closed()
            self.rest += more

    def expect(self, body):
        """The next frame that is no heartbeat; it must be @body."""
        while True:
            got, fields = self.receive()
            if got == body:
                return fields
            if got != "heartbeat":
                raise AssertionError(f"expected {body}, got {got} {fields}")

    def close(self):
        self.sock.close()


def proof(key, side, version, gateway_id, boot_id, nonce_g, nonce_s, key_id):
    """HMAC-SHA-512 cut to 256 bits over what docs/protocol.md says; side b"G" or b"S"."""
    data = side + struct.pack(">I", version) + gateway_id + boot_id + nonce_g + nonce_s
    data += bytes([len(key_id)]) + key_id.encode()
    return hmac.new(key, data, hashlib.sha512).digest()[:32]


def derive(token_key, gateway_id, nonce_g, nonce_s):
    data = b"weir gateway key" + gateway_id + nonce_g + nonce_s
    return hmac.new(token_key, data, hashlib.sha512).digest()[:32]


def token_key(token):
    """(id, key) of "weir1.ID.SECRET.FINGERPRINT"."""
    import base64
    _, ident, secret = token.split(".")[:3]  # and the fingerprint of the server's key
    raw = base64.urlsafe_b64decode(secret + "=")
    return ident, hashlib.blake2b(raw, digest_size=32).digest()


def x25519(secret, point=b"\x09" + bytes(31)):
    """RFC 7748, section 5, in its own words and not in constant time."""
    p, k = 2 ** 255 - 19, int.from_bytes(secret, "little")
    k = k & ~7 & ~(1 << 255) | 1 << 254
    u = int.from_bytes(point, "little") & (1 << 255) - 1
    x2, z2, x3, z3, swap = 1, 0, u, 1, 0
    for t in reversed(range(255)):
        bit = k >> t & 1
        if swap ^ bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swap = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        aa, bb, da, cb = a * a % p, b * b % p, d * a % p, c * b % p
        x3, z3 = (da + cb) ** 2 % p, u * (da - cb) ** 2 % p
        e = aa - bb
        x2, z2 = aa * bb % p, e * (aa + 121665 * e) % p
    if swap:
        x2, z2 = x3, z3
    return (x2 * pow(z2, p - 2, p) % p).to_bytes(32, "little")


def rekey(old_key, gateway_id, server, gateway, key_id, shared):
    data = b"weir gateway rekey" + gateway_id + server + gateway + bytes([len(key_id)]) + key_id.encode() + shared
    return hmac.new(old_key, data, hashlib.sha512).digest()[:32]


def confirm(key, gateway_id, session, key_id):
    data = b"weir key confirm" + gateway_id + struct.pack(">Q", session) + bytes([len(key_id)]) + key_id.encode()
    return hmac.new(key, data, hashlib.sha512).digest()[:32]


class Gateway:
    """A gateway made by hand: says Hello, proves its key, and then does what the test wants."""

    def __init__(self, address, key, key_id="local", gateway_id=None, name="by-hand", boot_id=None):
        self.wire = Wire(address)
        self.key, self.key_id, self.name = key, key_id, name
        self.gateway_id = gateway_id or os.urandom(16)
        self.boot_id = boot_id or os.urandom(16)
        self.nonce = os.urandom(32)
        self.welcome = None

    def hello(self, **other):
        values = dict(version_min=1, version_max=1, gateway_id=self.gateway_id, boot_id=self.boot_id,
                      name=self.name, software="by hand", key_id=self.key_id, nonce=self.nonce)
        values.update(other)
        self.wire.send("hello", **values)

    def prove(self, challenge):
        return proof(self.key, b"G", challenge["version"], self.gateway_id, self.boot_id, self.nonce,
                     challenge["nonce"], self.key_id)

    def connect(self, **other):
        self.hello(**other)
        self.challenge = self.wire.expect("challenge")
        expected = proof(self.key, b"S", self.challenge["version"], self.gateway_id, self.boot_id, self.nonce,
                         self.challenge["nonce"], self.key_id)
        assert self.challenge["proof"] == expected, "the server does not know the key"
        self.wire.send("proof", proof=self.prove(self.challenge))
        self.welcome = self.wire.expect("welcome")
        return self

    def close(self):
        self.wire.close()
