"""The machine under the bench: namespaces, processes, and what the kernel
counts about them."""
import ctypes
import glob
import os
import resource
import signal
import socket
import subprocess
import tempfile
import threading
import time

import peers as P

WORK = os.environ.get("BENCH_RUN", os.path.join(tempfile.gettempdir(), "homarus-bench"))
APP_CPUS, PROXY_CPUS = {0}, {1}
PROXY_UID = 2102
CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)


def sh(cmd, check=True):
    return subprocess.run(cmd, shell=True, check=check, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout


def no_pinning():
    """Lets the kernel place everything."""
    for cpus in (APP_CPUS, PROXY_CPUS):
        cpus.update(range(os.cpu_count()))


def settle_in():
    """The harness itself stays off the proxies' core, and may hold many files."""
    os.sched_setaffinity(0, APP_CPUS)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def enter(ns):
    fd = os.open(f"/run/netns/{ns}", os.O_RDONLY)
    try:
        if LIBC.setns(fd, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"entering {ns}")
    finally:
        os.close(fd)


def inside(ns, cpus, uid=None):
    """What a child does before it becomes its program."""

    def prepare():
        enter(ns)
        os.sched_setaffinity(0, cpus)
        if uid:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)

    return prepare


class Net:
    """A client's and a server's namespace, one veth pair between them, and the
    rules of proxy-init in each. `tag` tells several apart."""

    def __init__(self, tag=""):
        self.cl, self.sv = f"hb{tag}-cl", f"hb{tag}-sv"

    def of(self, role):
        return self.cl if role == "out" else self.sv

    def down(self):
        for ns in (self.cl, self.sv):
            sh(f"ip netns del {ns}", check=False)

    def up(self, redirect):
        self.down()
        for ns in (self.cl, self.sv):
            sh(f"ip netns add {ns} && ip -n {ns} link set lo up")
            sh(f"ip netns exec {ns} sysctl -qw net.ipv4.ip_local_port_range='1024 65535' net.ipv4.tcp_tw_reuse=1 net.core.somaxconn=4096 net.ipv4.tcp_congestion_control=reno")
            # Or a readiness check may connect to itself, and hold the port it waits for.
            sh(f"ip netns exec {ns} sysctl -qw net.ipv4.ip_local_reserved_ports={P.RESERVED}")
            sh(f"ip netns exec {ns} sysctl -qw net.netfilter.nf_conntrack_tcp_timeout_time_wait=3", check=False)
        sh(f"ip link add hb0 netns {self.cl} type veth peer name hb1 netns {self.sv}")
        sh(f"ip -n {self.cl} addr add {P.CLIENT_IP}/24 dev hb0 && ip -n {self.cl} link set hb0 up")
        sh(f"ip -n {self.sv} addr add {P.SERVER_IP}/24 dev hb1 && ip -n {self.sv} addr add {P.SERVICE_IP}/32 dev hb1 && ip -n {self.sv} link set hb1 up")
        sh(f"ip -n {self.cl} route add {P.SERVICE_IP}/32 via {P.SERVER_IP}")
        if redirect:
            self.redirect(*redirect)

    def redirect(self, out, inn):
        ports = ",".join(map(str, P.APP_PORTS))
        for ns in (self.cl, self.sv):
            ipt = f"ip netns exec {ns} iptables -w -t nat"
            sh(
                f"{ipt} -N IN && {ipt} -A IN -p tcp -m multiport --dports {ports} -j REDIRECT --to-port {inn} && {ipt} -A PREROUTING -j IN && "
                f"{ipt} -N OUT && {ipt} -A OUT -m owner --uid-owner {PROXY_UID} -j RETURN && {ipt} -A OUT -o lo -j RETURN && "
                f"{ipt} -A OUT -p tcp -j REDIRECT --to-port {out} && {ipt} -A OUTPUT -j OUT"
            )


class Procs:
    """Children of this run, stopped by pid."""

    def __init__(self):
        self.all = []

    def spawn(self, ns, cpus, argv, env=None, uid=None, log="log", **kw):
        base = {"PATH": os.environ["PATH"], "HOME": tempfile.gettempdir()}
        with open(f"{WORK}/logs/{log}", "ab") as out:
            kw.setdefault("stdin", subprocess.DEVNULL)
            kw.setdefault("stdout", out)
            p = subprocess.Popen(argv, env={**base, **(env or {})}, stderr=out, preexec_fn=inside(ns, cpus, uid), **kw)
        self.all.append(p)
        return p

    def stop(self):
        for p in reversed(self.all):
            if p.poll() is None:
                p.send_signal(signal.SIGKILL)
            p.wait()
        self.all = []


def in_ns(ns, fn):
    """Runs fn on a thread that has entered ns."""
    box = []

    def body():
        try:
            enter(ns)
            box.append(fn())
        except Exception as e:
            box.append(e)

    t = threading.Thread(target=body)
    t.start()
    t.join()
    if isinstance(box[0], Exception):
        raise box[0]
    return box[0]


def wait_ready(check, proc, limit=15):
    """Polls twice a millisecond until the check passes."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if proc.poll() is not None:
            raise RuntimeError(f"{proc.args[0]} exited with {proc.returncode}: see {WORK}/logs")
        try:
            with socket.create_connection(("127.0.0.1", check[1]), 0.5) as io:
                if check[0] == "connect":
                    return
                io.sendall(f"GET {check[2]} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
                if io.recv(64).startswith(b"HTTP/1.1 200"):
                    return
        except OSError:
            pass
        time.sleep(0.0005)
    raise RuntimeError(f"{proc.args[0]} not ready after {limit} s: see {WORK}/logs")


def cpu_seconds(pid):
    """User plus system time. The same clock as /proc/PID/stat, whose 10 ms
    ticks are too coarse for the slow loads; schedstat has nanoseconds."""
    tasks = glob.glob(f"/proc/{pid}/task/*/schedstat")
    if not tasks:
        raise RuntimeError(f"process {pid} is gone: see {WORK}/logs")
    return sum(int(open(t).read().split()[0]) for t in tasks) / 1e9


def memory(pid):
    kv = dict(l.split(":", 1) for l in open(f"/proc/{pid}/status") if ":" in l)
    return {k: int(kv[v].split()[0]) / 1024 for k, v in (("rss", "VmRSS"), ("peak", "VmHWM"))}


def core_times():
    """{cpu: (busy, total, stolen)} in ticks."""
    out = {}
    for line in open("/proc/stat"):
        if line.startswith("cpu") and line[3].isdigit():
            n, *v = line.split()
            v = list(map(int, v[:8]))
            out[int(n[3:])] = (sum(v) - v[3] - v[4], sum(v), v[7])
    return out
