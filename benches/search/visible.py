#!/usr/bin/env python3
"""How long an order takes to be seen in the search index, while others order at a fixed rate.

  visible.py SITE INDEX LOGIN SECONDS RATE < SKUS

SITE is the shop, INDEX the URL of Elasticsearch's index, LOGIN a file as curl reads it, SKUS a product a line. One thread in turn orders a
product that nobody else orders, and asks the index every 20 ms until it has the stock that the order left. Orders at RATE a second
of other products come meanwhile; how many came is part of the result. The clock starts when the request is sent, before the
commit. Prints a line of JSON; a thread that fails ends it with its error.
"""

import base64
import http.client
import json
import random
import ssl
import sys
import threading
import time
import urllib.parse
import uuid

EVERY = 0.02
LIMIT = 20.0
WATCHERS = 6


class Link:
    """One connection that is kept, and made anew once when the other side has closed it."""

    def __init__(self, url, login=None):
        self.parts, self.link = urllib.parse.urlsplit(url), None
        self.headers = {"Content-Type": "application/json"}
        if login:
            self.headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()

    def open(self):
        where = (self.parts.hostname, self.parts.port)
        if self.parts.scheme == "https":
            # The stack's own authority; whose certificate it is is not what is measured.
            return http.client.HTTPSConnection(*where, timeout=10, context=ssl._create_unverified_context())
        return http.client.HTTPConnection(*where, timeout=10)

    def call(self, method, path, body, headers=None):
        for again in (False, True):
            try:
                self.link = self.link or self.open()
                self.link.request(method, path, json.dumps(body) if body else None, self.headers | (headers or {}))
                answer = self.link.getresponse()
                return answer.status, json.loads(answer.read() or b"null")
            except (http.client.HTTPException, OSError):
                self.link = None
                if again:
                    raise


def order(shop, sku, qty):
    body = {"email": "ada@example.org", "items": [{"sku": sku, "qty": qty}]}
    status, answer = shop.call("POST", "/api/v1/orders", body, {"Idempotency-Key": str(uuid.uuid4())})
    if status != 201:
        raise SystemExit(f"an order of {sku} was answered by {status}: {answer}")


def stock(index, name, sku):
    path = f"/{name}/_search"
    status, answer = index.call("POST", path, {"size": 1, "query": {"term": {"sku": sku}}, "_source": ["on_hand"]})
    if status != 200 or not answer["hits"]["hits"]:
        raise SystemExit(f"the index has no {sku}: {status} {answer}")
    return answer["hits"]["hits"][0]["_source"]["on_hand"]


def watch(site, url, login, skus, until, seen):
    shop, index = Link(site), Link(url, login)
    name = urllib.parse.urlsplit(url).path.strip("/")
    while time.monotonic() < until:
        sku = skus.pop()
        before = stock(index, name, sku)
        began = time.monotonic()
        order(shop, sku, 1)
        while stock(index, name, sku) == before:
            if time.monotonic() - began > LIMIT:
                raise SystemExit(f"{sku} is not in the index {LIMIT} s after its order")
            time.sleep(EVERY)
        seen.append((time.monotonic() - began) * 1e3)


def press(site, skus, until, rate, count, threads):
    shop, pause = Link(site), threads / rate
    due = time.monotonic()
    while time.monotonic() < until:
        order(shop, random.choice(skus), 1)
        count.append(1)
        due += pause
        time.sleep(max(0.0, due - time.monotonic()))


def run(faults, work, *args):
    """What ends a thread would otherwise end nothing else, and be a better result."""
    try:
        work(*args)
    except BaseException as error:
        faults.append(error)


def main():
    site, url, seconds, rate = sys.argv[1], sys.argv[2], float(sys.argv[4]), float(sys.argv[5])
    with open(sys.argv[3]) as file:
        login = file.read().split('"')[1]
    skus = sys.stdin.read().split()
    watched, pressed = skus[: len(skus) // 2], skus[len(skus) // 2 :]
    begin = time.monotonic()
    until, seen, count, faults = begin + seconds, [], [], []
    watchers = [threading.Thread(target=run, args=(faults, watch, site, url, login, watched, until, seen)) for _ in range(WATCHERS)]
    others = [threading.Thread(target=run, args=(faults, press, site, pressed, until, rate, count, 8)) for _ in range(8)]
    for thread in watchers + others:
        thread.start()
    for thread in others:
        thread.join()
    took = time.monotonic() - begin
    for thread in watchers:
        thread.join()
    if faults:
        raise faults[0]
    if not seen:
        raise SystemExit("no order was seen in the index")
    seen.sort()
    at = lambda share: round(seen[min(len(seen) - 1, int(len(seen) * share))], 1)
    print(json.dumps({"orders": len(seen), "rps": round(len(count) / took, 1), "p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": round(seen[-1], 1)}))


main()
