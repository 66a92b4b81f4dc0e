"""Takes the notifications that Alertmanager sends and shows them to people; wakes nobody.

An alert that is told again is counted and not listed again, so that the watchdog, which is told every minute, does not
push out what matters.
"""

import html
import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

PORT = 8026
FILE = "/var/lib/prometheus/pages/pages.json"
KEPT_MAX = 1000
BODY_MAX_BYTES = 4 << 20
# What of an alert makes it the same one again.
SAME = ("fingerprint", "status", "starts_at", "receiver")


class Pages:
    """The newest alerts, oldest first. Several threads use it."""

    def __init__(self, path):
        self.path = path
        self.lock = threading.Lock()
        self.pages = []
        try:
            with open(path, encoding="utf-8") as file:
                self.pages = json.load(file)
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            print(f"begin without the pages in {path}: {error}", file=sys.stderr, flush=True)

    def take(self, notification):
        now = time.time()
        # All of it is read before any of it is kept: what is refused leaves nothing behind.
        told = [
            {
                "fingerprint": str(alert["fingerprint"]),
                "status": str(alert["status"]),
                "starts_at": str(alert["startsAt"]),
                "receiver": str(notification["receiver"]),
                "labels": texts(alert["labels"]),
                "annotations": texts(alert["annotations"]),
                "received": now,
                "times": 1,
            }
            for alert in notification["alerts"]
        ]
        with self.lock:
            for page in told:
                for earlier in self.pages:
                    if all(earlier[key] == page[key] for key in SAME):
                        self.pages.remove(earlier)
                        page["times"] = earlier["times"] + 1
                        break
                self.pages.append(page)
            del self.pages[:-KEPT_MAX]
            self.keep()

    def found(self, wanted):
        """Newest first, with how long ago each came: clocks of two machines may differ."""
        now = time.time()
        with self.lock:
            pages = [page for page in reversed(self.pages) if matches(page, wanted)]
            return [{**page, "seconds_ago": round(now - page["received"], 3)} for page in pages]

    def remove(self, wanted):
        with self.lock:
            before = len(self.pages)
            self.pages = [page for page in self.pages if not matches(page, wanted)]
            self.keep()
            return before - len(self.pages)

    def keep(self):
        temporary = f"{self.path}.new"
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(self.pages, file)
        os.replace(temporary, self.path)


def texts(mapping):
    return {str(key): str(value) for key, value in mapping.items()}


def matches(page, wanted):
    return all(value == (page["status"] if key == "status" else page["labels"].get(key)) for key, value in wanted)


PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Pages</title>
<meta name="viewport" content="width=device-width"><meta http-equiv="refresh" content="15"><style>
body {{ font: 1rem/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem }}
table {{ border-collapse: collapse; width: 100% }}
th, td {{ text-align: left; padding: .4rem .8rem .4rem 0; border-bottom: 1px solid #8884; vertical-align: top }}
.firing {{ color: #c00; font-weight: bold }} small {{ opacity: .7 }}
</style><h1>Pages</h1><p>{count} of the newest {kept}; nobody else was told of them.</p>
<table><tr><th>Last told<th>State<th>Alert<th>What<th>Times</tr>{rows}</table></html>"""
ROW = """<tr><td>{received}<td class="{status}">{status}<td>{alertname}<br><small>{labels}</small>
<td>{summary}<td>{times}</tr>"""


def shown(pages):
    rows = []
    for page in pages:
        labels = " ".join(f"{key}={value}" for key, value in sorted(page["labels"].items()) if key != "alertname")
        row = {
            "received": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(page["received"])),
            "status": page["status"],
            "alertname": page["labels"].get("alertname", ""),
            "labels": labels,
            "summary": page["annotations"].get("summary") or page["annotations"].get("description", ""),
            "times": page["times"],
        }
        rows.append(ROW.format(**{key: html.escape(str(value)) for key, value in row.items()}))
    return PAGE.format(count=len(pages), kept=KEPT_MAX, rows="".join(rows))


class Http(BaseHTTPRequestHandler):
    pages = None
    protocol_version = "HTTP/1.1"
    server_version = "pages"
    sys_version = ""
    # A client that says nothing more is let go.
    timeout = 30

    def do_GET(self):
        url = urlsplit(self.path)
        wanted = parse_qsl(url.query)
        if url.path == "/":
            self.answer(200, "text/html; charset=utf-8", shown(self.pages.found(wanted)).encode())
        elif url.path == "/api/pages":
            self.answer(200, "application/json", json.dumps({"pages": self.pages.found(wanted)}).encode())
        elif url.path == "/health":
            self.answer(200, "text/plain", b"ok\n")
        else:
            self.answer(404, "text/plain", b"not found\n")

    def do_POST(self):
        if urlsplit(self.path).path != "/notifications":
            return self.refuse(404, "not found")
        length = self.headers.get("Content-Length", "")
        # `isdigit` alone takes ², which `int` does not.
        if not (length.isascii() and length.isdigit()) or int(length) > BODY_MAX_BYTES:
            return self.refuse(413, f"found a length of {length!r}, expected at most {BODY_MAX_BYTES} bytes")
        try:
            self.pages.take(json.loads(self.rfile.read(int(length))))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            return self.refuse(400, f"not a notification of Alertmanager: {error!r}")
        except OSError as error:
            # Alertmanager tries again after 5xx.
            return self.refuse(503, f"keep the page: {error}")
        return self.answer(200, "text/plain", b"ok\n")

    def do_DELETE(self):
        url = urlsplit(self.path)
        wanted = parse_qsl(url.query)
        # Without a label it would be all of them.
        if url.path != "/api/pages" or not wanted:
            return self.refuse(404, "not found")
        return self.answer(200, "application/json", json.dumps({"removed": self.pages.remove(wanted)}).encode())

    def refuse(self, status, why):
        print(why, file=sys.stderr, flush=True)
        # What was not read of the body would be taken for the next request.
        self.close_connection = True
        self.answer(status, "text/plain; charset=utf-8", f"{why}\n".encode())

    def answer(self, status, kind, body):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; sandbox")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, form, *arguments):
        """Checks ask every few seconds."""


def main():
    Http.pages = Pages(FILE)
    server = ThreadingHTTPServer(("", PORT), Http)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"HTTP on {PORT}, {len(Http.pages.pages)} pages", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
