#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the seeds of the control protocol's fuzz target: one for each message, and a few at the edges of the lawful. And
those of the gateway's file of controls, which holds messages too.

Run it in this folder after changing control.proto, and commit what it wrote.
"""
import os
import struct
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "lib"))
from controlwire import MESSAGES, encode, frame  # noqa: E402

ID, BOOT, NONCE, PROOF = bytes(range(16)), bytes(range(16, 32)), bytes(range(32)), bytes(32)

BODIES = {
    "hello": dict(version_min=1, version_max=1, gateway_id=ID, boot_id=BOOT, name="gw1",
                  software="weir-gateway 0.1.0", key_id="local", nonce=NONCE),
    "challenge": dict(version=1, nonce=NONCE, proof=PROOF, server_name="sla1"),
    "proof": dict(proof=PROOF),
    "welcome": dict(session=1 << 20, heartbeat_ms=2000, new_key_id="gateway:00112233445566778899aabbccddeeff"),
    "rekey": dict(base_key_id="gateway:1", key_id="gateway:2", exchange=NONCE),
    "key_confirm": dict(key_id="gateway:2", exchange=NONCE, proof=PROOF),
    "poll": dict(seq=7, acked=6, drain=dict(since=3, bounded=True, left_ms=60000)),
    "statistics": dict(
        seq=7, base_seq=6, more=True, mono_ns=123456789012, epoch=1763879826123456, boot_id=BOOT,
        streams=[dict(index=1, info=dict(host="10.0.0.7", volume="db", tenant="acme", target="array1", size=1 << 30),
                      ops=[dict(op=0, arrivals=1000, completions=998, bytes=4096000, bytes_arrived=4104192),
                           dict(op=1, arrivals=10, completions=10, errors=1, held=3, held_ns=5000000, dropped=0)],
                      hists=[dict(kind=2, write=False, index=[60, 61, 900, 1600], count=[500, 400, 97, 1],
                                  sum_ns=900000000, max_ns=80000000000),
                             dict(kind=0, write=True, index=[5], count=[3], sum_ns=5000000, max_ns=4000000)],
                      connections=2, oldest_held_ns=1000000, held_now=1, max_hold_hits=0,
                      held_by="throttle/10.0.0.7/db", burst_ppm=500001)],
        life=dict(deaths=2, hangs=1, last_death="SIGSEGV", last_death_ms=900, upgrades=1, last_upgrade="done"),
        drain=dict(since=3, connections=1, refused=2, closed=1),
        targets=[dict(name="array1", uri="nbd://127.0.0.1:10809", connections=2, connects=3, connect_failures=1,
                      inflight=4, errors=0, last_error="Connection refused")]),
    "set_controls": dict(
        epoch=1763879826123457, lease_ms=10000, full=True,
        controls=[dict(id="agreement/gold", planned=False, members=["10.0.0.7/db", "10.0.0.8/db"],
                       rates=[dict(kind=2, rate=12000, burst_rate=20000, burst_ms=60000),
                              dict(kind=5, rate=419430400)], reason="agreement gold"),
                  dict(id="throttle/10.0.0.9/batch", planned=True, members=["10.0.0.9/batch"],
                       rates=[dict(kind=2, rate=4000)], reason="hurts 10.0.0.7/db"),
                  dict(id="agreement/old", rates=[])]),
    "controls_ack": dict(epoch=1763879826123457, status=-5009, words="older than the controls in force"),
    "surge": dict(stream=1, why="backlog", mono_ns=123456789999),
    "heartbeat": dict(mono_ns=1),
    "error": dict(code="auth", words="unknown key"),
    "bye": dict(why="the gateway ends"),
}


AGREED = dict(id="agreement/gold", planned=False, members=["10.0.0.7/db", "10.0.0.8/db"],
              rates=[dict(kind=2, rate=12000, burst_rate=20000, burst_ms=60000)], reason="agreement gold")
# The first byte: 1 puts the head of such a file before the rest, 0 takes it as the whole file.
FILES = {
    "one": b"\1" + frame("set_controls", dict(epoch=1, full=True, controls=[AGREED])),
    "two-frames": b"\1" + frame("set_controls", dict(epoch=1, full=True, more=True, controls=[AGREED])) +
                  frame("set_controls", dict(epoch=1, controls=[dict(AGREED, id="agreement/silver")])),
    "planned": b"\1" + frame("set_controls", dict(epoch=1, full=True, controls=[dict(AGREED, planned=True)])),
    "same-id": b"\1" + frame("set_controls", dict(epoch=1, full=True, controls=[AGREED, AGREED])),
    "another-message": b"\1" + frame("heartbeat", dict(mono_ns=1)),
    "cut-short": b"\1" + frame("set_controls", dict(epoch=1, full=True, controls=[AGREED]))[:-9],
    "no-frame": b"\1",
    "wrong-head": b"\0WEIRCTL1" + bytes(40),
    "empty": b"\0",
}


def seed(name, data, target="control_frame"):
    folder = os.path.join(HERE, target)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name), "wb") as f:
        f.write(data)


def main():
    missing = set(MESSAGES["Frame"]) - set(BODIES)
    if missing:
        sys.exit(f"no seed for {missing}")
    for name, values in BODIES.items():
        seed(name, frame(name, values))
    for name, data in FILES.items():
        seed(name, data, "controls_file")
    seed("edge-empty-body", frame("heartbeat", {}))
    seed("edge-no-body", struct.pack(">I", 2) + b"\x78\x00")
    seed("edge-zero-length", struct.pack(">I", 0))
    seed("edge-too-long", struct.pack(">I", (1 << 20) + 1) + b"x" * 16)
    seed("edge-two-bodies", struct.pack(">I", 4) + encode("Frame", {"heartbeat": {}}) +
         encode("Frame", {"bye": {}}))
    seed("edge-many-frames", b"".join(frame(n, v) for n, v in BODIES.items()))
    seed("edge-bad-op", frame("statistics", dict(seq=1, boot_id=BOOT, streams=[dict(ops=[dict(op=8)])])))
    seed("edge-unequal-arrays", frame("statistics", dict(
        seq=1, boot_id=BOOT, streams=[dict(hists=[dict(index=[1, 2], count=[1])])])))


if __name__ == "__main__":
    main()
