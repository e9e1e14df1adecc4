# SPDX-License-Identifier: Apache-2.0
"""Goal: a gateway gets a new key in the place of its credential without its session's end, and whatever dies at whichever step, it
comes back with the key that the server has; an enrolment whose Welcome was lost may be tried again by the same gateway, by nobody else.
Method: a real server with gateways made by hand that stop at each step, and with a real gateway whose files are those of each step,
or which is killed, as the server is, while keys are being changed."""
import os
import random
import threading
import time
import unittest

import controlwire
import heldthread
import weirtest
from controlwire import Gateway
from weirtest import wait_until


class Stage(unittest.TestCase):
    def setUp(self):
        self.world = weirtest.World()
        self.world.__enter__()
        self.addCleanup(self.world.__exit__, None, None, None)
        self.server = self.world.server()

    def token(self):
        return self.server.request("POST", "/api/v1/enrolment-tokens", {})[2]["token"]

    def gateways(self):
        return {g["name"]: g for g in self.server.items("/gateways")}

    def admitted(self, name):
        wait_until(lambda: self.gateways().get(name, {}).get("state") == "admitted", f"{name} to be admitted")

    def audit(self, verb):
        return [a for a in self.server.items("/audit?limit=200") if a["verb"] == verb]

    def events(self, kind):
        return [e for e in self.server.items("/events?limit=200") if e["kind"] == kind]

    def restart_server(self):
        where = {"state_dir": self.server.state_dir, "control": self.server.control}
        self.server.kill()
        self.server = self.world.server(**where)


class ByHand(Stage):
    def by_hand(self, key, key_id, like=None, name="hand"):
        g = Gateway(self.server.control, key, key_id=key_id, name=name, gateway_id=like.gateway_id if like else None)
        self.addCleanup(g.close)
        return g

    def enrol(self, token, like=None):
        ident, key = controlwire.token_key(token)
        g = self.by_hand(key, "token:" + ident, like).connect(rekey=True)
        g.credential = controlwire.derive(key, g.gateway_id, g.nonce, g.challenge["nonce"])
        return g

    def confirm(self, g, key_id, key, **exchange):
        g.wire.send("key_confirm", key_id=key_id, proof=controlwire.confirm(key, g.gateway_id, g.welcome["session"], key_id),
                    **exchange)

    def works(self, key, key_id, like):
        """Whether a handshake with this key comes to a session."""
        g = self.by_hand(key, key_id, like)
        g.hello(rekey=True)
        body, answer = g.wire.receive()
        if body != "challenge":
            self.assertEqual((body, answer["code"]), ("error", "auth"))
            return False
        g.wire.send("proof", proof=g.prove(answer))
        body, g.welcome = g.wire.receive()
        g.close()
        return body == "welcome"

    def rekeyed(self, g):
        """Ask for a rotation, and answer polls until Rekey comes: (thread, its result, the frame)."""
        result = []
        path = f"/api/v1/gateways/{g.gateway_id.hex()}/rotate"
        wait_until(lambda: "hand" in self.gateways(), "the server to know it")
        t = threading.Thread(target=lambda: result.append(self.server.request("POST", path)[0]))
        t.start()
        while True:
            body, fields = g.wire.receive()
            if body == "rekey":
                return t, result, fields

    def new_key(self, g, old, frame):
        secret = os.urandom(32)
        mine = controlwire.x25519(secret)
        shared = controlwire.x25519(secret, frame["exchange"])
        return mine, controlwire.rekey(old, g.gateway_id, frame["exchange"], mine, frame["key_id"], shared)

    def test_a_lost_welcome_does_not_spend_the_token_for_the_same_gateway(self):
        token = self.token()
        first = self.enrol(token)
        first.close()  # and the gateway never saw it
        self.restart_server()
        with self.assertRaises(AssertionError):
            self.enrol(token)  # another gateway
        second = self.enrol(token, like=first)
        self.assertNotEqual(second.welcome["new_key_id"], first.welcome["new_key_id"])
        wait_until(lambda: not self.works(first.credential, first.welcome["new_key_id"], first), "what the first try made to be void")
        self.confirm(second, second.welcome["new_key_id"], second.credential)
        wait_until(lambda: self.audit("credential-confirm"), "the enrolment to be closed")
        with self.assertRaises(AssertionError):
            self.enrol(token, like=first)
        self.assertTrue(self.works(second.credential, second.welcome["new_key_id"], second))

    def test_who_came_with_its_credential_cannot_come_with_the_token_again(self):
        token = self.token()
        g = self.enrol(token)
        g.close()
        # Once the server has read its keys again: a handshake before that does not know that the token is open.
        wait_until(lambda: self.works(g.credential, g.welcome["new_key_id"], g) and self.audit("credential-confirm"),
                   "the enrolment to be closed")
        with self.assertRaises(AssertionError):
            self.enrol(token, like=g)

    def test_the_new_key_is_in_force_when_it_is_confirmed_and_the_old_is_void(self):
        g = self.enrol(self.token())
        old_id = g.welcome["new_key_id"]
        t, result, frame = self.rekeyed(g)
        self.assertEqual(frame["base_key_id"], old_id)
        mine, key = self.new_key(g, g.credential, frame)
        self.confirm(g, frame["key_id"], key, exchange=mine)
        t.join()
        self.assertEqual(result, [204])
        self.assertFalse(self.works(g.credential, old_id, g))
        self.restart_server()
        self.assertFalse(self.works(g.credential, old_id, g))
        self.assertTrue(self.works(key, frame["key_id"], g))
        self.assertEqual(len(self.audit("credential-rotate")), 1)

    def test_who_goes_before_it_confirms_keeps_its_key_until_it_returns(self):
        g = self.enrol(self.token())
        t, result, frame = self.rekeyed(g)
        _, key = self.new_key(g, g.credential, frame)
        g.close()
        t.join()
        self.assertEqual(result, [202])
        self.assertTrue(self.works(g.credential, g.welcome["new_key_id"], g))
        self.assertFalse(self.works(key, frame["key_id"], g))
        self.assertIsNotNone(self.gateways()["hand"]["keyOrdered"])
        again = self.by_hand(g.credential, g.welcome["new_key_id"], g).connect(rekey=True)
        body = None
        while body != "rekey":  # what was ordered, without being asked again
            body, frame = again.wire.receive()
        mine, key = self.new_key(again, g.credential, frame)
        self.confirm(again, frame["key_id"], key, exchange=mine)
        wait_until(lambda: self.audit("credential-rotate"), "the order to be carried out")
        wait_until(lambda: self.gateways()["hand"]["keyOrdered"] is None, "the order to be over")
        again.close()
        self.assertFalse(self.works(g.credential, g.welcome["new_key_id"], g))
        self.assertTrue(self.works(key, frame["key_id"], g))

    def test_who_goes_when_it_has_confirmed_has_the_new_key(self):
        g = self.enrol(self.token())
        t, result, frame = self.rekeyed(g)
        mine, key = self.new_key(g, g.credential, frame)
        self.confirm(g, frame["key_id"], key, exchange=mine)
        g.close()
        t.join()
        self.assertEqual(result, [204])
        self.assertFalse(self.works(g.credential, g.welcome["new_key_id"], g))
        self.assertTrue(self.works(key, frame["key_id"], g))

    def test_a_confirmation_that_is_wrong_changes_nothing(self):
        g = self.enrol(self.token())
        t, result, frame = self.rekeyed(g)
        mine, key = self.new_key(g, g.credential, frame)
        self.confirm(g, frame["key_id"], os.urandom(32), exchange=mine)
        t.join()
        self.assertEqual(result, [503])
        t, result, frame = self.rekeyed(g)
        _, key = self.new_key(g, g.credential, frame)
        self.confirm(g, frame["key_id"], key, exchange=bytes(32))  # a point whose product anybody knows
        t.join()
        self.assertEqual(result, [503])
        self.assertTrue(self.works(g.credential, g.welcome["new_key_id"], g))
        self.assertFalse(self.works(key, frame["key_id"], g))

    def test_who_cannot_or_need_not_is_told_so(self):
        with open(os.path.join(self.server.state_dir, "gateway.key"), encoding="ascii") as f:
            local = bytes.fromhex(f.read())
        g = self.by_hand(local, "local", name="local").connect(rekey=True)
        self.addCleanup(g.close)
        wait_until(lambda: "local" in self.gateways(), "the server to know it")
        status, _, problem = self.server.request("POST", "/api/v1/gateways/local/rotate")
        self.assertEqual((status, "local key" in problem["detail"]), (409, True), problem)
        ident, key = controlwire.token_key(self.token())
        old = self.by_hand(key, "token:" + ident, name="old").connect()  # its software knows of no Rekey
        wait_until(lambda: "old" in self.gateways(), "the server to know it")
        status, _, problem = self.server.request("POST", "/api/v1/gateways/old/rotate")
        self.assertEqual((status, "software" in problem["detail"]), (409, True), problem)
        self.assertEqual(self.server.request("POST", "/api/v1/gateways/none/rotate")[0], 404)
        old.close()


class Real(Stage):
    def setUp(self):
        super().setUp()
        self.target = self.world.nbdkit("memory", "1M")
        self.listen = f"127.0.0.1:{weirtest.free_port()}"
        self.g = self.gateway("--token", self.token())
        self.admitted("gw")

    def gateway(self, *args):
        return self.world.gateway("--server", self.server.control, *args, target=self.target.uri, name="gw", listen=self.listen,
                                  state_dir=self.world.path("gw"))

    def file(self, name):
        try:
            with open(os.path.join(self.world.path("gw"), name), encoding="ascii") as f:
                return f.read()
        except FileNotFoundError:
            return None

    def put(self, name, text):
        with open(os.path.join(self.world.path("gw"), name), "w", encoding="ascii") as f:
            f.write(text)

    def kill_gateway(self):
        workers = self.g.workers()
        self.g.kill()
        for pid in workers:
            wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "the worker to end")

    def back(self):
        """It has a session of now, not one that the server has not missed yet."""
        wait_until(lambda: self.g.local(get="status")["status"]["link"]["connected"], "the gateway to be connected")
        self.admitted("gw")

    def test_a_key_is_changed_within_the_session_and_is_there_after_every_restart(self):
        before = self.file("credential")
        out = self.world.cli(self.server, "gateway", "rotate", "gw", check=True).stdout
        self.assertIn("gateway/gw has a new key", out)
        self.assertEqual(self.file("credential"), before)
        new = self.file("credential.next")
        self.assertRegex(new, r"^gateway:[0-9a-f]{32} [0-9a-f]{64}\n$")
        self.assertEqual(os.stat(os.path.join(self.world.path("gw"), "credential.next")).st_mode & 0o777, 0o600)
        self.assertEqual(self.events("gateway-lost"), [])
        # Again in the same session: the one in force is followed, not the one in its file.
        self.world.cli(self.server, "gateway", "rotate", "gw", check=True)
        self.assertEqual(self.file("credential"), new)
        newer = self.file("credential.next")
        self.restart_server()
        self.back()
        wait_until(lambda: (self.file("credential"), self.file("credential.next")) == (newer, None), "the new key to be promoted")
        self.assertEqual(len(self.audit("credential-rotate")), 2)
        self.world.cli(self.server, "gateway", "rotate", "gw", check=True)
        self.kill_gateway()
        self.g = self.gateway()
        self.back()
        self.assertIsNone(self.file("credential.next"))
        self.assertEqual(self.events("gateway-refused"), [])

    def test_a_next_key_that_never_came_into_force_is_passed_over(self):
        self.kill_gateway()
        self.put("credential.next", f"gateway:{'0' * 32} {'1' * 64}\n")  # written, and the server died before it knew
        self.g = self.gateway()
        self.back()
        self.assertIsNotNone(self.file("credential.next"), "it may be in force yet, as far as the gateway knows")
        self.world.cli(self.server, "gateway", "rotate", "gw", check=True)
        self.kill_gateway()
        self.put("credential.next.x", "")  # nothing of ours
        self.g = self.gateway()
        self.back()
        self.assertIsNone(self.file("credential.next"))
        self.kill_gateway()
        self.put("credential.next", "half a li")
        self.g = self.gateway()
        self.back()

    def test_whoever_is_killed_while_keys_are_changed_they_find_each_other_again(self):
        seed = int(os.environ.get("WEIR_SEED", random.randrange(1 << 32)))
        print(f"seed {seed}")
        rng = random.Random(seed)
        for turn in range(6):
            done = []
            server = self.server

            def rotate():
                try:
                    done.append(server.request("POST", "/api/v1/gateways/gw/rotate")[0])
                except OSError:
                    done.append(None)  # killed meanwhile
            t = threading.Thread(target=rotate)
            t.start()
            time.sleep(rng.random() * 0.06)
            if turn % 2 == 0:
                self.kill_gateway()
                self.g = self.gateway()
            else:
                self.restart_server()
            self.back()
            if turn % 2 == 1:
                t.join()
            print(f"turn {turn}: {done}")
        self.world.cli(self.server, "gateway", "rotate", "gw", check=True)

    def order(self):
        out = self.world.cli(self.server, "gateway", "rotate", "gw", check=True).stdout
        self.assertIn("gateway/gw is away: it gets a new key when it next connects", out)

    def carried_out(self, times):
        wait_until(lambda: len(self.audit("credential-rotate")) == times, "the order to be carried out")
        wait_until(lambda: self.gateways()["gw"]["keyOrdered"] is None, "the order to be over")

    def test_a_key_that_is_ordered_for_one_that_is_away_is_given_when_it_returns(self):
        self.kill_gateway()
        self.order()
        since = self.gateways()["gw"]["keyOrdered"]
        self.assertRegex(self.world.cli(self.server, "describe", "gateway", "gw", check=True).stdout, f"keyOrdered: .?{since}")
        self.order()  # there is one order, the first
        self.assertEqual(self.gateways()["gw"]["keyOrdered"], since)
        self.restart_server()
        wait_until(lambda: self.gateways().get("gw", {}).get("keyOrdered") == since, "the order to be read again")
        self.assertEqual(self.audit("credential-rotate"), [])
        self.g = self.gateway()
        self.carried_out(1)
        self.assertEqual(len(self.audit("gateway-rotate")), 2)
        self.assertEqual(len(self.events("gateway-key-ordered")), 2)
        wait_until(lambda: self.events("gateway-key-changed"), "the event")
        self.assertIn(f"as ordered at {since}", self.events("gateway-key-changed")[0]["text"])
        # The gateway is there before the server, which has not read its keys yet.
        self.kill_gateway()
        self.order()
        self.server.kill()
        self.g = self.gateway()
        self.server = self.world.server(state_dir=self.server.state_dir, control=self.server.control)
        self.carried_out(2)
        # Once: the next time that it comes its key stays.
        self.restart_server()
        self.back()
        self.world.cli(self.server, "gateway", "rotate", "gw", check=True)
        self.assertEqual(len(self.audit("credential-rotate")), 3)

    def test_an_order_that_is_withdrawn_is_not_carried_out(self):
        gateway_id = self.gateways()["gw"]["id"]
        rotate = f"/api/v1/gateways/{gateway_id}/rotate"
        self.assertEqual(self.server.request("DELETE", rotate)[0], 404)
        self.assertEqual(self.server.request("DELETE", "/api/v1/gateways/none/rotate")[0], 404)
        self.kill_gateway()
        self.order()
        out = self.world.cli(self.server, "gateway", "rotate", "gw", "--cancel", check=True).stdout
        self.assertEqual(out, "gateway/gw keeps its key: the order is withdrawn\n")
        self.assertIsNone(self.gateways()["gw"]["keyOrdered"])
        self.assertEqual(self.server.request("DELETE", rotate)[0], 404)
        wait_until(lambda: self.events("gateway-key-order-withdrawn"), "the event")
        self.assertEqual(len(self.audit("gateway-unrotate")), 1)
        # It holds over a restart, and the gateway that returns has the key that it had.
        self.restart_server()
        self.g = self.gateway()
        self.back()
        self.assertEqual(self.audit("credential-rotate"), [])
        self.assertIsNone(self.gateways()["gw"]["keyOrdered"])
        # It can be ordered again.
        self.kill_gateway()
        self.order()
        self.g = self.gateway()
        self.carried_out(1)

    def test_a_withdrawal_that_is_not_heard_says_so_and_holds_all_the_same(self):
        rotate = f"/api/v1/gateways/{self.gateways()['gw']['id']}/rotate"
        self.kill_gateway()
        self.order()
        with heldthread.held(self.server.pid, "acceptor"):
            status, _, problem = self.server.request("DELETE", rotate)
            self.assertEqual((status, "ask again" in problem["detail"]), (503, True), problem)
            # It is out of the record by then, so the second time there is nothing to withdraw there, but somebody to tell.
            self.assertEqual(len(self.audit("gateway-unrotate")), 1)
        status = self.server.request("DELETE", rotate)[0]
        self.assertIn(status, (204, 404))  # the first may have been heard late
        self.assertIsNone(self.gateways()["gw"]["keyOrdered"])
        self.g = self.gateway()
        self.back()
        self.assertEqual(self.audit("credential-rotate"), [])
        self.assertEqual(len(self.audit("gateway-unrotate")), 1)

    def test_retiring_a_gateway_ends_what_was_ordered_for_it(self):
        gateway_id = self.gateways()["gw"]["id"]
        self.kill_gateway()
        self.order()
        self.world.cli(self.server, "gateway", "retire", "gw", check=True)
        for name in ("gw", gateway_id):
            self.assertEqual(self.server.request("POST", f"/api/v1/gateways/{name}/rotate")[0], 404)
        self.g = self.world.gateway("--server", self.server.control, "--token", self.token(), target=self.target.uri, name="gw",
                                    listen=self.listen, state_dir=self.world.path("anew"))
        self.back()
        self.assertIsNone(self.gateways()["gw"]["keyOrdered"])
        self.assertEqual(self.audit("credential-rotate"), [])

    def test_an_old_key_is_changed_by_itself(self):
        self.server.kill()
        conf = self.world.path("server.conf")
        with open(conf, "w", encoding="ascii") as f:
            f.write("[control]\ncredential-age = 1m\n")
        with weirtest.contextlib.closing(__import__("sqlite3").connect(os.path.join(self.server.state_dir, "state.db"))) as db:
            db.execute("UPDATE credentials SET created_us = created_us - 61000000")
            db.commit()
        self.server = self.world.server("--config", conf, state_dir=self.server.state_dir, control=self.server.control)
        wait_until(lambda: self.audit("credential-rotate"), "the key to be changed", patience=2 * weirtest.PATIENCE)
        self.back()


if __name__ == "__main__":
    weirtest.main()
