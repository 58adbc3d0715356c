"""Which functions of the C libraries our proxy runs: what its linker puts side by side (crates/homarus-proxy/link-order.txt).

  HOMARUS_BIN=... python3 order.py --bin DIR_OF_TOOLS > link-order.txt      (needs valgrind)

An idle proxy's memory is mostly its own code, and the kernel maps that in runs of sixteen pages. Most of a C library is never
run, but strewn between what is. Only names that outlast a build are kept: not those of Rust.
"""
import argparse
import glob
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import time

import bench
import loads
import machine
import peers

LOADS = ["h1", "grpc", "tcp-down", "conn-warm", "conn-cold"]


def ran(binary, tools):
    """The names of what ran in a pair of proxies while they started and carried each kind of load."""
    with tempfile.TemporaryDirectory(prefix="order-") as folder:
        os.chmod(folder, 0o777)
        watch(binary, tools, folder)
        names = set()
        for path in glob.glob(f"{folder}/*.calls"):
            with open(path, errors="replace") as f:
                # The functions of recursions are numbered.
                names.update(m[1].split("'")[0] for m in re.finditer(r"^c?fn=\(\d+\) (.*)$", f.read(), re.M))
        return names


def watch(binary, tools, folder):
    """Runs a pair of proxies under valgrind, which leaves there what they called."""
    wrapper = f"{folder}/proxy"
    with open(wrapper, "w") as f:
        f.write(f'#!/bin/sh\nexec valgrind --tool=callgrind --callgrind-out-file={folder}/%p.calls {folder}/program "$@"\n')
    subprocess.run(["cp", binary, f"{folder}/program"], check=True)
    os.chmod(wrapper, os.stat(wrapper).st_mode | stat.S_IXOTH | stat.S_IXUSR | stat.S_IROTH)
    peers.BINARIES["homarus"] = wrapper
    args = argparse.Namespace(bin=tools, peer="homarus")
    bench.prepare(args)
    with bench.Run("homarus", args) as run:
        for load in LOADS:
            loads.LOADS[load][1](run.net, tools, 2)
        for role in run.roles():
            os.kill(run.pids[role], signal.SIGTERM)
        for _ in range(100):
            if all(os.path.getsize(path) for path in glob.glob(f"{folder}/*.calls")):
                break
            time.sleep(0.1)


def elsewhere(names):
    """What a processor with AVX-512 runs instead, which valgrind doesn't have."""
    return {re.sub(r"_avx2?(_unaligned_erms)?$", kind, name) for name in names for kind in (r"_evex\1", r"_avx512\1")}


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--bin", required=True)
    tools = ap.parse_args().bin
    binary = peers.BINARIES["homarus"]
    machine.settle_in()
    names = ran(binary, tools)
    listed = machine.sh(f"nm {binary}").splitlines()
    known = {line.split()[-1] for line in listed if re.match(r"[0-9a-f]+ [tTwWi] ", line)}
    kept = sorted(name for name in (names | elsewhere(names)) & known if not re.match(r"_ZN|_R", name))
    if not kept:
        sys.exit("order: valgrind saw nothing run that the program's symbols name")
    print("# Made by bench/order.py: what runs of the C libraries, so that the linker puts it side by side.")
    for name in kept:
        print(re.sub(r"aws_lc_\d+_\d+_\d+_", "aws_lc_*_", name))


if __name__ == "__main__":
    main()
