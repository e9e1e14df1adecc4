# SPDX-License-Identifier: Apache-2.0
"""Goal: documents live as docs/openapi.yaml says: versions, tags, rivals, dry runs, pages and audit; wrong ones are refused in words.
Method: one real world; each answer is held against the document by tests/lib/openapi.py."""
import concurrent.futures
import http.client

import weirtest
from apicase import AGREEMENT, DOCUMENT, DOCUMENTS, POLICY, TENANT, ApiCase, setUpModule, tearDownModule  # noqa: F401
from weirtest import PATIENCE, wait_until


class Documents(ApiCase):
    def test_a_document_lives_from_put_to_delete(self):
        for plural, (kind, d) in DOCUMENTS.items():
            with self.subTest(kind):
                path = f"/api/v1/{plural}/{d['name']}"
                _, headers, made = self.call("PUT", path, d, expect=201)
                self.assertEqual((made["result"], headers["Location"]), ("created", path))
                _, got_headers, got = self.call("GET", path, expect=200)
                self.assertEqual((got["spec"], got["updated"]), (made["spec"], made["updated"]))
                self.assertEqual(got_headers["ETag"], headers["ETag"])
                self.assertEqual([x["name"] for x in self.call("GET", f"/api/v1/{plural}", expect=200)[2]["items"]], [d["name"]])
                _, same_headers, same = self.call("PUT", path, d, expect=200)
                self.assertEqual((same["result"], same_headers["ETag"]), ("unchanged", headers["ETag"]))
                # What came out goes in again: the canonical form is a document too.
                self.assertEqual(self.call("PUT", path, got, expect=200)[2]["result"], "unchanged")
                self.call("DELETE", path, expect=204)
                self.call("GET", path, expect=404)
                self.call("DELETE", path, expect=404)
                # A version is never given twice, so an old tag cannot match a new document.
                self.assertGreater(self.call("PUT", path, d, expect=201)[2]["version"], made["version"])

    def test_a_change_makes_a_new_version_and_old_tags_no_longer_match(self):
        path = "/api/v1/agreements/gold"
        _, headers, first = self.call("PUT", path, AGREEMENT, expect=201)
        old = headers["ETag"]
        changed = {**AGREEMENT, "weight": 300}
        _, headers, d = self.call("PUT", path, changed, expect=200, headers={"If-Match": old})
        self.assertEqual((d["result"], d["version"]), ("updated", first["version"] + 1))
        self.assertNotEqual(headers["ETag"], old)
        self.call("PUT", path, AGREEMENT, expect=412, headers={"If-Match": old})
        self.call("PUT", path, AGREEMENT, expect=412, headers={"If-Match": "W/" + headers["ETag"]})
        self.call("PUT", path, AGREEMENT, expect=412, headers={"If-None-Match": "*"})
        self.call("DELETE", path, expect=412, headers={"If-Match": old})
        self.assertEqual(self.call("GET", path)[2]["version"], d["version"])
        tag = self.call("PUT", path, AGREEMENT, expect=200, headers={"If-Match": "*"})[1]["ETag"]
        self.call("DELETE", path, expect=204, headers={"If-Match": f'"x", {tag}'})
        self.call("PUT", path, AGREEMENT, expect=412, headers={"If-Match": "*"})
        self.call("PUT", path, AGREEMENT, expect=201, headers={"If-None-Match": "*"})

    def test_a_percentage_leaves_as_it_was_written(self):
        self.call("PUT", "/api/v1/agreements/gold", AGREEMENT, expect=201)
        host = f"Host: 127.0.0.1:{self.port}\r\n\r\n"
        got = self.raw(f"GET /api/v1/agreements/gold HTTP/1.1\r\nConnection: close\r\n{host}".encode())
        self.assertIn(b'"target":99.9,', got)

    def test_a_version_that_is_known_is_not_sent_again(self):
        tag = self.call("PUT", "/api/v1/tenants/acme", TENANT, expect=201)[1]["ETag"]
        self.call("GET", "/api/v1/tenants/acme", expect=304, headers={"If-None-Match": f'W/{tag}'})
        self.call("GET", "/api/v1/tenants/acme", expect=200, headers={"If-None-Match": '"99"'})
        tag = self.call("PUT", "/api/v1/agreements/gold", AGREEMENT, expect=201)[1]["ETag"]
        self.call("GET", "/api/v1/agreements/gold", expect=200, headers={"If-None-Match": tag})

    def test_a_dry_run_checks_everything_and_changes_nothing(self):
        path = "/api/v1/agreements/gold?dryRun=true"
        status, _, d = self.server.request("PUT", path, AGREEMENT)
        self.assertEqual((status, d["result"]), (200, "would-create"))
        self.call("GET", "/api/v1/agreements/gold", expect=404)
        version = self.call("PUT", "/api/v1/agreements/gold", AGREEMENT, expect=201)[2]["version"]
        self.assertEqual(self.call("PUT", path, {**AGREEMENT, "weight": 7}, expect=200)[2]["result"], "would-update")
        self.assertEqual(self.call("PUT", path, AGREEMENT, expect=200)[2]["result"], "unchanged")
        self.call("PUT", path, {**AGREEMENT, "weight": 0}, expect=422)
        self.call("PUT", path.replace("gold", "other"), {**AGREEMENT, "name": "other"}, expect=409)
        self.assertEqual(self.call("GET", "/api/v1/agreements/gold")[2]["version"], version)

    def test_two_agreements_of_equal_rank_for_one_stream_are_refused_by_name(self):
        self.call("PUT", "/api/v1/agreements/gold", AGREEMENT, expect=201)
        rival = {**AGREEMENT, "name": "rival", "appliesTo": {"volume": "*-1"}}
        _, _, problem = self.call("PUT", "/api/v1/agreements/rival", rival, expect=409)
        self.assertIn("gold", problem["detail"])
        self.assertIn("rival", problem["detail"])
        self.call("GET", "/api/v1/agreements/rival", expect=404)
        self.call("PUT", "/api/v1/agreements/rival", {**rival, "appliesTo": {"volume": "*-1", "host": "*"}}, expect=201)
        self.call("PUT", "/api/v1/agreements/third", {**rival, "name": "third", "appliesTo": {"volume": "silver-*"}}, expect=201)

    def test_a_reservation_above_its_tenants_limit_is_refused_whichever_comes_last(self):
        tenant = {"kind": "Tenant", "name": "acme", "members": [{"volume": "db-*"}], "limit": {"iops": 1000}}
        firm = {"kind": "Agreement", "name": "firm", "appliesTo": {"volume": "db-1"}, "reservation": {"iopsRead": 900}}
        self.call("PUT", "/api/v1/tenants/acme", tenant, expect=201)
        self.call("PUT", "/api/v1/agreements/firm", firm, expect=201)
        for path, body in (("agreements/firm", {**firm, "reservation": {"iopsRead": 900, "iopsWrite": 200}}),
                           ("tenants/acme", {**tenant, "limit": {"iops": 800}})):
            for query in ("?dryRun=true", ""):
                _, _, problem = self.call("PUT", f"/api/v1/{path}{query}", body, expect=409)
                self.assertIn("firm", problem["detail"])
                self.assertIn("acme", problem["detail"])
        self.assertEqual(self.call("GET", "/api/v1/tenants/acme")[2]["spec"]["limit"]["iops"], 1000)
        self.call("PUT", "/api/v1/tenants/acme", {**tenant, "members": [{"volume": "db-2"}], "limit": {"iops": 800}}, expect=200)

    def test_reservations_above_a_shared_limit_are_refused_with_all_names_and_numbers(self):
        def firm(n, iops, **more):
            return {"kind": "Agreement", "name": f"firm{n}", "appliesTo": {"volume": f"db-{n}"}, "reservation": {"iops": iops}, **more}
        tenant = {"kind": "Tenant", "name": "acme", "members": [{"volume": "db-*"}], "limit": {"iops": 1000}}
        wide = {"kind": "Agreement", "name": "wide", "appliesTo": {"target": "*"}, "limit": {"iops": 850}}
        night = {"days": ["mon"], "from": "00:00", "to": "06:00"}
        day = {"days": ["mon"], "from": "06:00", "to": "24:00"}
        self.call("PUT", "/api/v1/tenants/acme", tenant, expect=201)
        self.call("PUT", "/api/v1/agreements/firm1", firm(1, 500), expect=201)
        self.call("PUT", "/api/v1/agreements/firm2", firm(2, 400), expect=201)
        for path, body, others in (("agreements/firm3", firm(3, 101), {"firm3": 101}), ("agreements/firm2", firm(2, 501), {}),
                                   ("tenants/acme", {**tenant, "limit": {"iops": 899}}, {}),
                                   ("agreements/wide", wide, {})):
            for query in ("?dryRun=true", ""):
                _, _, problem = self.call("PUT", f"/api/v1/{path}{query}", body, expect=409)
                reserved = {"firm1": 500, "firm2": body["reservation"]["iops"] if body["name"] == "firm2" else 400} | others
                self.assertEqual(problem["errors"], [f"agreement {k} reserves {v} I/Os a second" for k, v in sorted(reserved.items())])
                self.assertIn(f"reserve {sum(reserved.values())} I/Os a second", problem["detail"])
                self.assertIn("wide" if "wide" in path else "acme", problem["detail"])
        self.call("PUT", "/api/v1/agreements/firm3", firm(3, 100), expect=201)
        # Never at the same time.
        self.call("PUT", "/api/v1/agreements/firm3", firm(3, 100, schedule=[night]), expect=200)
        self.call("PUT", "/api/v1/agreements/firm4", firm(4, 100, schedule=[day]), expect=201)
        self.call("PUT", "/api/v1/agreements/firm4", firm(4, 101, schedule=[day]), expect=409)

    def test_of_many_rivals_at_once_exactly_one_wins(self):
        def put(i):
            rival = {**AGREEMENT, "name": f"r{i}", "appliesTo": {"volume": "race-*"}}
            return self.server.request("PUT", f"/api/v1/agreements/r{i}", rival)[0]
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            results = list(pool.map(put, range(16)))
        self.assertEqual(sorted(results), [201] + [409] * 15)

    def test_an_agreement_is_in_force_when_its_put_is_answered(self):
        self.call("PUT", "/api/v1/agreements/gold", AGREEMENT, expect=201)
        status = self.call("GET", "/api/v1/agreements/gold", expect=200)[2]["status"]
        self.assertIsNotNone(status)
        wait_until(lambda: self.server.get("/streams/127.0.0.1/gold-1")["agreement"] == "gold", "the stream's agreement")
        status = wait_until(lambda: (s := self.server.get("/agreements/gold")["status"]) and s["streams"] == 1 and s, "one stream")
        self.assertEqual(DOCUMENT.errors(status, DOCUMENT.schema("AgreementStatus")), [])

    def test_a_document_that_could_not_be_in_force_is_refused(self):
        def put(i, path="", **kw):
            return self.server.request("PUT", f"/api/v1/policies/p{i}{path}", {**POLICY, "name": f"p{i}"}, **kw)
        for i in range(256):
            self.assertEqual(put(i)[0], 201)
        self.assertEqual(put(256)[0], 409)
        self.assertEqual(put(256, "?dryRun=true")[0], 409)
        self.assertEqual(len(self.server.items("/policies")), 256)
        self.assertEqual(self.server.request("PUT", "/api/v1/policies/p0", {**POLICY, "name": "p0", "maxCut": "10%"})[0], 200)

    def test_wrong_documents_are_refused_with_a_line_for_each_wrong_field(self):
        wrong = {**AGREEMENT, "weight": 0, "colour": "red", "limit": {"iops": 0}, "objectives": [{"percentile": 99, "latency": "5"}]}
        _, _, problem = self.call("PUT", "/api/v1/agreements/gold", wrong, expect=422)
        for field in ("weight", "colour", "limit.iops", "objectives[0].latency"):
            self.assertTrue(any(field in line for line in problem["errors"]), f"{field}: {problem['errors']}")
        for body in ({**AGREEMENT, "name": "other"}, {**AGREEMENT, "kind": "Tenant"}, {}, {"kind": "Agreement"}):
            self.call("PUT", "/api/v1/agreements/gold", body, expect=422)
        self.call("PUT", "/api/v1/agreements/a%20b", {**AGREEMENT, "name": "a b"}, expect=422)

    def test_bodies_that_are_not_json_are_refused(self):
        path = "/api/v1/agreements/gold"
        for body in (b"{", b"[]", b"null", b'"x"', b'{"a":1,"a":2}', b"\xff\xfe", b'{"name":"\x00"}', b"[" * 5000 + b"]" * 5000,
                     b'{"a":' * 400000):
            self.call("PUT", path, body, expect=413 if len(body) > 1 << 20 else 400)
        self.call("PUT", path, b"", expect=400)
        for media in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/json; charset=latin1"):
            self.call("PUT", path, AGREEMENT, expect=415, headers={"Content-Type": media})
        self.call("GET", "/api/v1/streams", b"{}", expect=400)
        self.call("PUT", path, b" " * ((1 << 20) + 1), expect=413)
        self.call("PUT", path, b" " * (1 << 20), expect=400)
        # Whoever is refused for another reason hears it, however much it sends.
        self.call("PUT", path, b" " * (4 << 20), expect=401, token=False)

    def test_a_chunked_body_is_bounded_too(self):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        c.request("PUT", "/api/v1/agreements/gold", iter([b" " * 65536] * 40), encode_chunked=True, headers={
            "Transfer-Encoding": "chunked", "Content-Type": "application/json", "Authorization": "Bearer " + self.server.admin_token})
        self.assertEqual(c.getresponse().status, 413)
        c.close()

    def test_pages_give_everything_once_and_in_order(self):
        names = sorted(f"t{i:02d}" for i in range(23))
        for name in names:
            self.call("PUT", f"/api/v1/tenants/{name}", {**TENANT, "name": name}, expect=201)
        got, cursor = [], ""
        while cursor is not None:
            _, _, page = self.call("GET", f"/api/v1/tenants?limit=10{'&cursor=' + cursor if cursor else ''}", expect=200)
            got += [t["name"] for t in page["items"]]
            cursor = page["next"]
        self.assertEqual(got, names)

    def test_rows_page_backwards_by_id(self):
        for i in range(7):
            self.call("PUT", f"/api/v1/tenants/p{i}", {**TENANT, "name": f"p{i}"}, expect=201)
        seen, before = [], None
        for _ in range(3):
            _, _, page = self.call("GET", f"/api/v1/audit?limit=2{'&before=' + before if before else ''}", expect=200)
            seen += [row["id"] for row in page["items"]]
            before = page["next"]
        self.assertEqual(len(set(seen)), 6)
        self.assertEqual(seen, sorted(seen, key=int, reverse=True))

    def test_every_write_is_in_the_audit_with_its_actor(self):
        self.call("PUT", "/api/v1/tenants/acme", TENANT, expect=201)
        self.call("DELETE", "/api/v1/tenants/acme", expect=204)
        rows = self.call("GET", "/api/v1/audit?limit=2", expect=200)[2]["items"]
        self.assertEqual([r["actor"] for r in rows], ["admin", "admin"])
        self.assertTrue(all("acme" in r["subject"] for r in rows), rows)


if __name__ == "__main__":
    weirtest.main()
