"""A mail server for development: takes every mail over SMTP, delivers none, and shows them over HTTP.

Mails lie in a Maildir, one file a recipient, and everything that is shown is read from these files. A mail with a
Message-ID that the recipient has already is counted and not stored again, as Cyrus' duplicate suppression does.
Recipients at refused.invalid and deferred.invalid are answered as their names say, for tests of the sender.
"""

import asyncio
import email.policy
import html
import json
import os
import signal
import sys
import threading
import time
from email.parser import BytesHeaderParser
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from aiosmtpd.smtp import SMTP

SMTP_PORT = 1025
HTTP_PORT = 8025
FOLDER = "/var/lib/sink"
MAIL_MAX_BYTES = 5 << 20
KEPT_MAX = 1000
KEPT_MAX_BYTES = 256 << 20
ANSWERS = {
    "refused.invalid": "550 5.1.1 no such mailbox",
    "deferred.invalid": "451 4.2.1 mailbox is busy, try again",
}
# Their header lines stand before the mail's own and tell what the envelope said.
RECIPIENT, SENDER = "X-Envelope-To", "X-Envelope-From"


class Mail:
    """What is known of one stored mail without reading it again."""

    def __init__(self, path):
        self.path = path
        name = os.path.basename(path)
        # `1763836800123456.7.4242,D=2`: microseconds since 1970, a number, the size, and how often it came.
        unique, _, deliveries = name.partition(",D=")
        micros, _, self.size = unique.split(".")
        self.id = unique.replace(".", "-")
        self.size = int(self.size)
        self.received = int(micros) / 1e6
        self.deliveries = int(deliveries)
        with open(path, "rb") as file:
            headers = BytesHeaderParser(policy=email.policy.compat32).parse(file)
        self.to = text(headers, RECIPIENT)
        self.sender = text(headers, SENDER)
        self.subject = text(headers, "Subject")
        self.message_id = text(headers, "Message-ID")

    def described(self):
        return {
            "id": self.id,
            "to": self.to,
            "from": self.sender,
            "subject": self.subject,
            "message_id": self.message_id,
            "received_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.received)),
            "size": self.size,
            "deliveries": self.deliveries,
        }


def text(headers, name):
    """A header as people read it, whatever a sender made of it."""
    raw = headers.get(name)
    if raw is None:
        return ""
    try:
        raw = str(email.header.make_header(email.header.decode_header(raw)))
    except (LookupError, ValueError, email.errors.HeaderParseError):
        raw = str(raw)
    return " ".join(raw.split())


class Mailbox:
    """The newest mails. Both servers use it, from several threads."""

    def __init__(self, folder):
        self.folder = folder
        for name in ("tmp", "new", "cur"):
            os.makedirs(os.path.join(folder, name), mode=0o700, exist_ok=True)
        for name in os.listdir(os.path.join(folder, "tmp")):
            os.unlink(os.path.join(folder, "tmp", name))
        self.lock = threading.Lock()
        self.number = 0
        self.mails = []
        for name in sorted(os.listdir(os.path.join(folder, "new"))):
            try:
                self.mails.append(Mail(os.path.join(folder, "new", name)))
            except ValueError:
                print(f"skip {name}: not a mail of this program", file=sys.stderr, flush=True)
        self.trim()

    def put(self, recipient, sender, content):
        """Returns how often the recipient was sent this mail by now."""
        headers = BytesHeaderParser(policy=email.policy.compat32).parsebytes(content)
        message_id = text(headers, "Message-ID")
        with self.lock:
            for mail in self.mails:
                if message_id and (mail.to, mail.message_id) == (recipient, message_id):
                    return self.count(mail)
            self.number += 1
            envelope = f"{RECIPIENT}: {recipient}\r\n{SENDER}: {sender}\r\n".encode("utf-8", "replace")
            unique = f"{time.time_ns() // 1000:016d}.{self.number}.{len(content)}"
            temporary = os.path.join(self.folder, "tmp", unique)
            with open(temporary, "wb") as file:
                file.write(envelope + content)
                file.flush()
                # The sender forgets the mail once it is told 250.
                os.fsync(file.fileno())
            path = os.path.join(self.folder, "new", f"{unique},D=1")
            self.move(temporary, path)
            self.mails.append(Mail(path))
            self.trim()
            return 1

    def count(self, mail):
        mail.deliveries += 1
        path = f"{mail.path.partition(',D=')[0]},D={mail.deliveries}"
        self.move(mail.path, path)
        mail.path = path
        return mail.deliveries

    def move(self, source, path):
        os.rename(source, path)
        new = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            os.fsync(new)
        finally:
            os.close(new)

    def trim(self):
        size = sum(mail.size for mail in self.mails)
        while len(self.mails) > KEPT_MAX or size > KEPT_MAX_BYTES:
            oldest = self.mails.pop(0)
            size -= oldest.size
            os.unlink(oldest.path)

    def found(self, wanted):
        """Newest first."""
        with self.lock:
            mails = [mail.described() for mail in reversed(self.mails)]
        same = {"to", "message_id"}
        for key, value in wanted.items():
            value = value.casefold()
            mails = [
                mail for mail in mails
                if (mail[key].casefold() == value if key in same else value in mail[key].casefold())
            ]
        return mails

    def raw(self, wanted):
        with self.lock:
            for mail in self.mails:
                if mail.id == wanted:
                    with open(mail.path, "rb") as file:
                        return file.read()
        return None

    def remove(self, wanted):
        with self.lock:
            for mail in self.mails:
                if mail.id == wanted:
                    self.mails.remove(mail)
                    os.unlink(mail.path)
                    return True
        return False


class Handler:
    def __init__(self, mailbox):
        self.mailbox = mailbox

    async def handle_RCPT(self, server, session, envelope, address, options):
        answer = ANSWERS.get(address.rpartition("@")[2].lower())
        if answer is None:
            envelope.rcpt_tos.append(address)
        return answer or "250 OK"

    async def handle_DATA(self, server, session, envelope):
        content = envelope.original_content
        loop = asyncio.get_running_loop()
        for recipient in envelope.rcpt_tos:
            put = loop.run_in_executor(None, self.mailbox.put, recipient, envelope.mail_from or "", content)
            try:
                deliveries = await put
            except OSError as error:
                print(f"store a mail: {error}", file=sys.stderr, flush=True)
                return "452 4.3.1 the mail cannot be stored"
            print(f"mail of {len(content)} bytes, delivery {deliveries}", flush=True)
        return "250 2.0.0 kept, and delivered to nobody"


PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Mails</title>
<meta name="viewport" content="width=device-width"><style>
body {{ font: 1rem/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem }}
table {{ border-collapse: collapse; width: 100% }}
th, td {{ text-align: left; padding: .4rem .8rem .4rem 0; border-bottom: 1px solid #8884; vertical-align: top }}
</style><h1>Mails</h1><p>{count} of the newest {kept}, none of them delivered.</p>
<table><tr><th>Received<th>To<th>Subject<th>Times sent</tr>{rows}</table></html>"""
ROW = '<tr><td>{received_at}<td>{to}<td><a href="/messages/{id}">{subject}</a><td>{deliveries}</tr>'


def page(mails):
    rows = []
    for mail in mails:
        shown = {key: html.escape(str(value)) for key, value in mail.items()}
        shown["subject"] = shown["subject"] or "(no subject)"
        rows.append(ROW.format(**shown))
    return PAGE.format(count=len(mails), kept=KEPT_MAX, rows="".join(rows))


class Http(BaseHTTPRequestHandler):
    mailbox = None
    protocol_version = "HTTP/1.1"
    server_version = "sink"
    sys_version = ""
    # A client that says nothing more is let go.
    timeout = 30

    def do_GET(self):
        url = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        wanted = {key: query[key] for key in ("to", "subject", "message_id") if key in query}
        if url.path == "/":
            self.answer(200, "text/html; charset=utf-8", page(self.mailbox.found(wanted)).encode())
        elif url.path == "/api/messages":
            mails = self.mailbox.found(wanted)
            self.answer(200, "application/json", json.dumps({"count": len(mails), "messages": mails}).encode())
        elif url.path == "/health":
            self.answer(200, "text/plain", b"ok\n")
        elif url.path.startswith("/messages/") and (raw := self.mailbox.raw(url.path[10:])) is not None:
            # Never as HTML: it is whatever somebody sent.
            self.answer(200, "text/plain; charset=utf-8", raw)
        else:
            self.answer(404, "text/plain", b"not found\n")

    def do_DELETE(self):
        path = urlsplit(self.path).path
        is_gone = path.startswith("/messages/") and self.mailbox.remove(path[10:])
        self.answer(204 if is_gone else 404, "text/plain", b"")

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


async def main():
    mailbox = Mailbox(FOLDER)
    Http.mailbox = mailbox
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)

    def smtp():
        return SMTP(
            Handler(mailbox),
            hostname=os.uname().nodename,
            ident="sink",
            data_size_limit=MAIL_MAX_BYTES,
            enable_SMTPUTF8=True,
        )

    await loop.create_server(smtp, port=SMTP_PORT)
    http = ThreadingHTTPServer(("", HTTP_PORT), Http)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    print(f"{formatdate()}: SMTP on {SMTP_PORT}, HTTP on {HTTP_PORT}, {len(mailbox.mails)} mails", flush=True)
    await stopped.wait()
    http.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
