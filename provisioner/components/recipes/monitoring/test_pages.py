"""What pages.py takes, shows and refuses: `python3 -B -m unittest test_pages` in this directory."""

import http.client
import json
import tempfile
import threading
import time
import unittest
from contextlib import redirect_stderr
from http.server import ThreadingHTTPServer
from io import StringIO

import pages


def alert(fingerprint="f1", status="firing", **labels):
    return {
        "fingerprint": fingerprint,
        "status": status,
        "startsAt": "2024-05-01T10:00:00Z",
        "labels": {"alertname": "BackendSlow", "severity": "page", **labels},
        "annotations": {"summary": "95 of 100 answers take longer than <0.8 s>"},
    }


def notification(*alerts):
    return {"version": "4", "receiver": "webhook", "status": "firing", "alerts": list(alerts)}


class Served(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.file = f"{directory.name}/pages.json"

        class Http(pages.Http):
            # A body that never comes ends a test soon.
            timeout = 1

        Http.pages = pages.Pages(self.file)
        self.http = Http
        server = ThreadingHTTPServer(("127.0.0.1", 0), Http)
        self.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        self.addCleanup(server.server_close)
        self.addCleanup(thread.join)
        self.addCleanup(server.shutdown)
        # Each refusal is told on stderr.
        quiet = redirect_stderr(StringIO())
        quiet.__enter__()
        self.addCleanup(quiet.__exit__, None, None, None)

    def ask(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        self.addCleanup(connection.close)
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    def tell(self, *alerts):
        self.assertEqual(self.ask("POST", "/notifications", json.dumps(notification(*alerts))), (200, "ok\n"))

    def found(self, query=""):
        status, body = self.ask("GET", f"/api/pages{query}")
        self.assertEqual(status, 200)
        return json.loads(body)["pages"]

    def test_a_notification_is_shown_as_json_newest_first(self):
        before = time.time()
        self.tell(alert("f1"), alert("f2", system="app"))
        newest, oldest = self.found()
        self.assertEqual((newest["fingerprint"], oldest["fingerprint"]), ("f2", "f1"))
        self.assertEqual(newest["labels"], {"alertname": "BackendSlow", "severity": "page", "system": "app"})
        self.assertEqual((newest["status"], newest["receiver"], newest["times"]), ("firing", "webhook", 1))
        self.assertEqual(newest["starts_at"], "2024-05-01T10:00:00Z")
        self.assertTrue(before <= newest["received"] <= time.time())

    def test_labels_and_the_state_choose_what_is_shown(self):
        self.tell(alert("f1", system="app"), alert("f2", system="mail"), alert("f2", "resolved", system="mail"))
        self.assertEqual([page["fingerprint"] for page in self.found("?system=app")], ["f1"])
        self.assertEqual([page["status"] for page in self.found("?system=mail&status=resolved")], ["resolved"])
        self.assertEqual(self.found("?system=redis"), [])

    def test_what_is_told_again_is_counted_and_not_listed_again(self):
        for _ in range(3):
            self.tell(alert("f1"))
        self.tell(alert("f1", "resolved"))
        self.assertEqual([(page["status"], page["times"]) for page in self.found()], [("resolved", 1), ("firing", 3)])

    def test_pages_outlive_the_server(self):
        self.tell(alert("f1"))
        self.assertEqual([page["fingerprint"] for page in pages.Pages(self.file).found([])], ["f1"])

    def test_a_broken_file_is_begun_anew(self):
        with open(self.file, "w", encoding="utf-8") as file:
            file.write('[{"finger')
        self.assertEqual(pages.Pages(self.file).found([]), [])

    def test_only_the_newest_are_kept(self):
        more = pages.KEPT_MAX + 5
        self.tell(*(alert(f"f{number}") for number in range(more)))
        found = self.found()
        self.assertEqual(len(found), pages.KEPT_MAX)
        self.assertEqual((found[0]["fingerprint"], found[-1]["fingerprint"]), (f"f{more - 1}", "f5"))

    def test_rubbish_is_refused_and_nothing_of_it_kept(self):
        lacking = alert("f2")
        del lacking["startsAt"]
        rubbish = {
            "no JSON": "alerts!",
            "no text": b"\xff\xfe\xfd",
            "nothing": "",
            "a list": "[]",
            "a number": "7",
            "null": "null",
            "without alerts": json.dumps({"receiver": "webhook"}),
            "without a receiver": json.dumps({"alerts": [alert()]}),
            "alerts that are none": json.dumps(notification("BackendSlow")),
            "labels that are none": json.dumps(notification({**alert(), "labels": "app"})),
            "nested too deeply": "[" * 200_000,
            "the second lacks a key": json.dumps(notification(alert("f1"), lacking)),
        }
        for name, body in rubbish.items():
            with self.subTest(name):
                self.assertEqual(self.ask("POST", "/notifications", body)[0], 400)
                self.assertEqual(self.found(), [])

    def test_a_body_of_unknown_or_absurd_length_is_refused_unread(self):
        for length in ("", "-1", "many", "²", str(pages.BODY_MAX_BYTES + 1)):
            with self.subTest(length):
                headers = {"Content-Length": length.encode("latin-1")}
                self.assertEqual(self.ask("POST", "/notifications", None, headers)[0], 413)

    def test_other_paths_are_not_found(self):
        for method, path in (("GET", "/../etc/passwd"), ("POST", "/"), ("DELETE", "/api/pages"), ("DELETE", "/")):
            with self.subTest(f"{method} {path}"):
                self.assertEqual(self.ask(method, path)[0], 404)

    def test_what_is_removed_is_chosen_by_labels(self):
        self.tell(alert("f1", synthetic="true"), alert("f2"))
        status, body = self.ask("DELETE", "/api/pages?synthetic=true")
        self.assertEqual((status, json.loads(body)), (200, {"removed": 1}))
        self.assertEqual([page["fingerprint"] for page in self.found()], ["f2"])

    def test_a_page_that_cannot_be_kept_is_asked_for_again(self):
        self.http.pages.path = f"{self.file}/below"
        with open(self.file, "w", encoding="utf-8") as file:
            file.write("[]")
        self.assertEqual(self.ask("POST", "/notifications", json.dumps(notification(alert())))[0], 503)

    def test_people_see_it_with_nothing_of_it_taken_for_html(self):
        self.tell(alert("f1", system="<script>"))
        status, body = self.ask("GET", "/")
        self.assertEqual(status, 200)
        self.assertIn("&lt;0.8 s&gt;", body)
        self.assertIn("system=&lt;script&gt;", body)
        self.assertNotIn("<script>", body)


if __name__ == "__main__":
    unittest.main()
