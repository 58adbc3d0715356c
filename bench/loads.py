"""What is asked of a pair of proxies: each load's command, and its result."""
import json
import os
import subprocess

import peers as P
from machine import APP_CPUS, WORK, inside

HERE = os.path.dirname(os.path.abspath(__file__))
HTTP = f"http://{P.SERVICE_IP}:{P.HTTP1}"
H2 = f"http://{P.SERVICE_IP}:{P.HTTP2}"
WEB = f"{P.SERVICE_IP}:{P.HTTP1}"
RAW = f"{P.SERVICE_IP}:{P.TCP}"
COLD = f"{P.SERVICE_IP}:{P.COLD}"


def client(net, argv, limit=60):
    """Runs a client's command to its end; what it printed."""
    r = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=limit, preexec_fn=inside(net.cl, APP_CPUS))
    if r.returncode:
        raise RuntimeError(f"{argv[0]} failed: {r.stdout[-300:]} {r.stderr[-300:]}")
    return r.stdout


def wrk(path, conns):
    def run(net, tools, secs):
        out = client(net, ["wrk", "-t1", f"-c{conns}", f"-d{secs}s", "--timeout", "5s", "-s", f"{HERE}/wrk.lua", HTTP + path])
        return json.loads(out.splitlines()[-1])

    return run


def h2load(path, *extra, conns=4, streams=8):
    def run(net, tools, secs):
        log = f"{WORK}/h2load.log"
        client(net, ["h2load", "-t1", f"-c{conns}", f"-m{streams}", f"-D{secs}", f"--log-file={log}", *extra, H2 + path])
        rows = [l.split("\t") for l in open(log)]
        os.unlink(log)
        ok = sorted(int(r[2]) for r in rows if r[1] == "200")
        if not ok:
            raise RuntimeError(f"h2load: none of {len(rows)} requests succeeded")
        at = lambda q: ok[min(len(ok) - 1, int(q * len(ok)))]
        return {
            "requests": len(ok), "rps": len(ok) / secs, "errors": len(rows) - len(ok),
            "p50_us": at(0.5), "p90_us": at(0.9), "p99_us": at(0.99), "p999_us": at(0.999), "max_us": ok[-1],
        }

    return run


def own(*argv, secs_scale=1):
    def run(net, tools, secs):
        args = [a.replace("SECS", str(max(1, round(secs * secs_scale)))) for a in argv]
        return json.loads(client(net, [f"{tools}/load", *args]).splitlines()[-1])

    return run


GRPC = ["-H", "content-type: application/grpc", "-H", "te: trailers", "-d", f"{WORK}/grpc.bin"]
LOADS = {
    # name: (what, runner)
    "open200": ("open loop, HTTP/1.1, 200 req/s on 16 connections", own("open", WEB, "200", "16", "SECS", secs_scale=2)),
    "open1000": ("open loop, HTTP/1.1, 1000 req/s on 16 connections", own("open", WEB, "1000", "16", "SECS", secs_scale=2)),
    "h1": ("HTTP/1.1 keep-alive, 32 connections, 1 KiB body", wrk("/bytes/1024", 32)),
    "h1-64k": ("HTTP/1.1 keep-alive, 8 connections, 64 KiB body", wrk("/bytes/65536", 8)),
    "h2": ("HTTP/2, 4 connections x 8 streams, 1 KiB body", h2load("/bytes/1024")),
    "grpc": ("gRPC unary echo of 100 bytes, 4 connections x 8 streams", h2load("/bench.Echo/Unary", *GRPC)),
    "tcp-down": ("opaque TCP, 2 connections, server to client", own("bulk", "down", RAW, "2", "SECS")),
    "tcp-up": ("opaque TCP, 2 connections, client to server", own("bulk", "up", RAW, "2", "SECS")),
    # Each of these gets fresh namespaces: the TIME_WAIT entries that one leaves slow the next.
    "conn-h1": ("a new client connection and one HTTP/1.1 request, 8 at a time (proxies may keep their session)", own("conn", "http", WEB, "8", "SECS", secs_scale=0.5)),
    "conn-warm": ("a new mTLS session and a 1 KiB echo, 8 at a time, to a proxy that was met before", own("conn", "tcp", RAW, "8", "SECS", secs_scale=0.5)),
    "conn-cold": ("the same where no session can be resumed", own("conn", "tcp", COLD, "8", "SECS", secs_scale=0.5)),
}
# What the table of the budgets wants; the others by --loads.
DEFAULT = ["open1000", "h1", "grpc", "tcp-down", "tcp-up", "conn-h1", "conn-warm", "conn-cold"]
