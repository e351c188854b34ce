"""Asks statements through python3-influxdb.

Standard input is JSON: {"addrs": [host:port], "db": name, "statements": [text]}.
Each statement goes to the next address in turn; each answer is one line of JSON.
"""
import json
import sys

from influxdb import InfluxDBClient
from influxdb.exceptions import InfluxDBClientError, InfluxDBServerError


def plain(result):
    results = result if isinstance(result, list) else [result]
    return [{"raw": r.raw, "keys": [list(k) for k in r.keys()], "points": list(r.get_points())} for r in results]


task = json.load(sys.stdin)
clients = []
for addr in task["addrs"]:
    host, port = addr.rsplit(":", 1)
    clients.append(InfluxDBClient(host, int(port), database=task["db"], retries=1))
for i, statement in enumerate(task["statements"]):
    client = clients[i % len(clients)]
    try:
        # One form after the other: times as text, times as numbers, chunks.
        form = [{}, {"epoch": "ns"}, {"chunked": True, "chunk_size": 11}][i % 3]
        answer = plain(client.query(statement, **form))
    except InfluxDBClientError as e:
        answer = {"error": str(e.content), "code": e.code}
    except InfluxDBServerError as e:
        answer = {"server error": str(e)}
    except Exception as e:  # what the client itself makes of an answer must be the same too
        answer = {type(e).__name__: str(e)}
    print(json.dumps(answer, default=str, sort_keys=True))
