#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the seeds of the fuzz targets relay, local, values, link_files, server_conf and yaml: whole plays for two peers (see
fuzz_relay.c for their form), requests to the local socket, and one of each kind of value and file.

Run it in this folder after changing it, and commit what it wrote.
"""
import os
import struct

from generate_nbd import (ACK, ERROR, EXTENDED, EXPORT_NAME, GO, LIST, REP_INFO, REPLY, SET_META, STRUCTURED, chunk, chunk_ext, info,
                          meta, option, request, request_ext, seed, simple)

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..", "..")
READ, WRITE, DISC, FLUSH, TRIM, BLOCK_STATUS = 0, 1, 2, 3, 4, 7


def act(what, data=b""):
    return bytes([what]) + struct.pack("<H", len(data)) + data


def host(*data):
    return act(0, b"".join(data))


def target(*data):
    return act(2, b"".join(data))


HELD_GO, HOST_ENDS, TARGET_ENDS = act(4), act(5), act(6)
NOBODY_READS, BOTH_READ = act(7 | 8 | 16), act(7)
GREETING = b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3)
FLAGS = struct.pack(">I", 3)


def reply(opt, kind, data=b""):
    return REPLY + struct.pack(">III", opt, kind, len(data)) + data


def negotiated(name, first=b"", agreed=()):
    """Up to transmission; the target agrees to the options in @agreed."""
    steps = [target(GREETING), host(FLAGS + first)]
    steps += [target(reply(o, ACK)) for o in agreed]
    export = struct.pack(">HQH", 0, 1 << 30, 0x6d)
    return b"".join(steps) + host(info(GO, name)) + target(reply(GO, REP_INFO, export), reply(GO, ACK))


def wire(n):
    """The cookie of the n-th request when each takes a slot of its own."""
    return n << 32 | n


def plays():
    read, write = request(READ, 16), request(WRITE, 16, data=b"w" * 16)
    yield "io", b"\0" + negotiated(b"x") + host(read, write, request(FLUSH)) + target(
        simple(cookie=wire(0), data=b"r" * 16), simple(cookie=wire(1)), simple(5, wire(2))) + host(request(DISC)) + TARGET_ENDS
    yield "pieces", b"\0" + negotiated(b"x") + host(write[:9]) + host(write[9:33]) + host(write[33:], read) + target(
        simple(cookie=wire(0))[:5]) + target(simple(cookie=wire(0))[5:], simple(cookie=wire(1), data=b"r" * 7)) + target(b"r" * 9)
    yield "held", b"\0" + negotiated(b"held-1") + host(*[request(WRITE, 3000, data=bytes(3000))] * 6, read, request(FLUSH)) + target(
        simple(cookie=wire(0))) + HELD_GO + target(simple(cookie=wire(1)), simple(cookie=wire(2))) + HOST_ENDS
    yield "held-disc", b"\0" + negotiated(b"held-2") + host(*[write] * 5, request(DISC)) + HOST_ENDS + HELD_GO + target(
        simple(cookie=wire(0)), simple(cookie=wire(1))) + TARGET_ENDS
    yield "held-large", b"\0" + negotiated(b"held-3") + host(request(WRITE, 1 << 20), bytes(60000)) + b"".join(
        host(bytes(65535)) for _ in range(8)) + HELD_GO + host(bytes(65535))
    yield "volume", b"\1" + negotiated(b"alpha") + host(*[read, write] * 4) + target(simple(cookie=wire(0), data=b"r" * 16)) + HELD_GO
    yield "wrong-volume", b"\1" + target(GREETING) + host(FLAGS, info(GO, b"gamma"), option(LIST)) + target(reply(LIST, ACK))
    yield "structured", b"\0" + negotiated(b"x", option(STRUCTURED), [STRUCTURED]) + host(read, read) + target(
        chunk(1, bytes(8) + b"d" * 8, 0, wire(0)), chunk(2, bytes(8) + struct.pack(">I", 8), 1, wire(0)),
        chunk(32769, struct.pack(">IH", 5, 2) + b"no", 1, wire(1)))
    yield "extended", b"\0" + negotiated(b"x", option(EXTENDED), [EXTENDED]) + host(
        request_ext(WRITE, 16, 0x20, data=b"w" * 16), request_ext(BLOCK_STATUS, 8, 0x20, data=b"p" * 8),
        request_ext(READ, 1 << 33)) + target(chunk_ext(0, cookie=wire(0)), chunk_ext(1, bytes(8) + b"d" * 8, 0, wire(2)))
    contexts = option(STRUCTURED) + meta(SET_META, b"x", b"base:allocation")
    yield "contexts", b"\0" + negotiated(b"x", contexts, [STRUCTURED, SET_META]) + host(
        request(BLOCK_STATUS, 512)) + target(chunk(5, struct.pack(">III", 1, 512, 0), 1, wire(0)))
    yield "export-name", b"\0" + target(GREETING) + host(FLAGS, option(EXPORT_NAME, b"x")) + target(
        struct.pack(">QH", 1 << 20, 1) + bytes(124)) + host(read)
    yield "deaf", b"\0" + negotiated(b"x") + NOBODY_READS + host(*[request(READ, 60000)] * 8) + b"".join(
        target(simple(cookie=wire(i), data=bytes(60000))) for i in range(8)) + BOTH_READ
    yield "stranger", b"\0" + negotiated(b"x") + host(read) + target(simple(cookie=99))
    yield "twice", b"\0" + negotiated(b"x") + host(read) + target(*[simple(cookie=wire(0), data=b"r" * 16)] * 2)
    yield "ends-inside", b"\0" + negotiated(b"x") + host(request(WRITE, 1000, data=bytes(500))) + HOST_ENDS
    yield "target-ends-inside", b"\0" + negotiated(b"x") + host(read) + target(simple(cookie=wire(0), data=b"r" * 5)) + TARGET_ENDS
    yield "unknown-option", b"\0" + target(GREETING) + host(FLAGS, option(0x7777, b"x" * 9), option(2))
    yield "early", b"\0" + host(FLAGS, info(GO, b"x"), read, write) + target(
        GREETING, reply(GO, REP_INFO, struct.pack(">HQH", 0, 1 << 20, 1)), reply(GO, ACK), simple(cookie=wire(0), data=b"r" * 16))


def main():
    for name, data in plays():
        seed("relay", name, data)
    for name, line in {
        "streams": b'{"get":"streams","histograms":true}\n', "status": b'{"get":"status"}\n{"get":"targets"}\n',
        "controls": b'{"get":"controls"}\r\n', "wrong": b'{"get":"x"}\nnonsense\n{}\n[]\n{"get":1}\n', "cut": b'{"get":"str',
        "twice": b'{"get":"status","get":"streams"}\n', "zero": b'{"get":"status\\u0000"}\n', "long": b"x" * 5000 + b"\n",
        "undrain": b'{"do":"undrain"}\n{"do":"undrain","get":"status"}\n{"do":1}\n{"get":"status"}\n',
    }.items():
        seed("local", name, b"\0" + line)
    seed("local", "in-pieces", b"\3" + b'{"get":"streams"}\n{"get":"status"}\n')
    for i, text in enumerate([
        "4000/s", "unlimited", "400MiB/s", "50MB/s", "256 KiB", "1.5s", "800us", "30d", "PT10S", "P30D", "99.9%", "yes", "off",
        "127.0.0.1:10809", "[::1]:7400", "unix:/run/x.sock", "nbd://127.0.0.1/exp%20ort", "nbd+unix:///disk?socket=/run/s",
        "gw1.example-1_x", "10.0.*", "[a-c]?*", "weir1.0123456789abcdef." + "A" * 43, "18446744073709551616", "\x1b[2J<&\"/%"]):
        seed("values", f"value-{i:02}", text.encode())
    seed("link_files", "identity", b"\0" + b"0123456789abcdef0123456789abcdef\n")
    seed("link_files", "identity-short", b"\0" + b"01234567\n")
    seed("link_files", "credential", b"\1" + b"0123456789abcdef " + b"ab" * 32 + b"\n")
    seed("link_files", "local-key", b"\2" + b"ab" * 32 + b"\n")
    seed("link_files", "local-key-raw", b"\2" + bytes(range(32)))
    seed("link_files", "token", b"\3" + b"weir1.0123456789abcdef." + b"A" * 43)
    with open(os.path.join(ROOT, "packaging", "server.conf"), "rb") as f:
        text = f.read()
    seed("server_conf", "default", text)
    seed("server_conf", "uncommented", b"\n".join(x[1:] if x[:1] == b"#" and b" = " in x and x[1:2].isalpha() else x
                                                  for x in text.split(b"\n")))
    seed("server_conf", "wrong", b"[server]\nperiod = 5\nlease = 1s\npairs = 0\npairs = 1\n[http]\nlisten = 192.0.2.1:1\n[nothing]\nx\n")
    for name, text in {
        "agreement": "kind: Agreement\nname: gold\nappliesTo: { tenant: acme, volume: \"db-*\" }\nobjectives:\n"
                     "  - { percentile: 99, latency: 5ms, whileIops: 4000 }\nlimit: { iops: 12000, bandwidth: 400MiB/s }\n",
        "several": "---\nkind: Tenant\nname: a\n---\n# nothing\n---\n"
                   "{\"kind\": \"Policy\", \"name\": \"p\", \"x\": [1, -2.5e3, null, true]}\n",
        "scalars": "a: 0x1F\nb: 0o17\nc: .inf\nd: ~\ne: 'it''s'\nf: \"\\u263a\\t\"\ng: |\n  one\n  two\nh: >-\n  folded\n  text\ni: ''\n",
        "refused": "a: &x 1\nb: *x\n", "tag": "!!str a: b\n", "twice": "a: 1\na: 2\n", "deep": "[" * 40 + "]" * 40, "tab": "a:\n\t- b\n",
    }.items():
        seed("yaml", name, text.encode())


if __name__ == "__main__":
    main()
