"""The test of a release. Arguments: address of the service, folder of its keys.

Exits 1 with a sentence for each thing that is wrong.
"""

import json
import pathlib
import sys
import time
import urllib.error
import urllib.request

server, folder = sys.argv[1], pathlib.Path(sys.argv[2])
key = {name: (folder / name).read_text().strip() for name in ("agents", "prometheus", "admin")}


def ask(path, name=None, method="GET"):
    headers = {"Authorization": "Bearer " + key[name]} if name else {}
    request = urllib.request.Request(server + path, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError as error:
        return 0, str(error).encode()


def check():
    status, body = ask("/readyz")
    if status != 200:
        return [f"/readyz answers {status}: {body[:300].decode(errors='replace')}"]
    wrong = [] if json.loads(body)["access"] == "closed" else ["the service is open to everybody"]
    for path, name, method, wanted in (
        ("/api/v1/nodes", None, "GET", 401),
        ("/api/v1/nodes", "prometheus", "GET", 200),
        ("/api/v1/nodes", "admin", "GET", 200),
        ("/api/v1/nodes", "agents", "GET", 403),
        ("/api/v1/ingest", "prometheus", "POST", 403),
    ):
        status, body = ask(path, name, method)
        if status != wanted:
            wrong.append(f"{method} {path} with {name or 'no'} key answers {status}, not {wanted}: {body[:300]!r}")
    status, _ = ask("/api/v1/ingest", "agents", "POST")
    if status in (0, 401, 403) or status >= 500:
        wrong.append(f"an agent's post is answered with {status}")
    if b"wattmill_ledger_withheld 0.0" not in ask("/metrics", "prometheus")[1]:
        wrong.append("Prometheus' key does not show the ledger")
    return wrong


for _ in range(30):
    wrong = check()
    if not wrong:
        sys.stdout.write("The service is ready, closed, and knows its keys.\n")
        sys.exit(0)
    time.sleep(2)
sys.stdout.write("\n".join([*wrong, ""]))
sys.exit(1)
