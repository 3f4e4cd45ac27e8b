#!/usr/bin/env python3
"""qllmd against llama-bench on one machine: alternating arms, median of --rounds.

usage: vs-llama.py --llama-bench PATH --qllmd PATH --qllmctl PATH [--rounds 5] [--hog] [--threads 2] NAME=MODEL.gguf...
Prints one line a model and measure: ours, theirs, ratio. With --hog, a busy process runs beside each arm as well and
the share of the idle rate that each keeps is printed.
"""
import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time


def llama(args, model, what):
    p, n = (512, 0) if what == "pp" else (0, 128)
    out = subprocess.run([args.llama_bench, "-m", model, "-p", str(p), "-n", str(n), "-t", str(args.threads), "-r", "1",
                          "-o", "json"], check=True, capture_output=True, timeout=600).stdout
    return json.loads(out)[0]["avg_ts"]


def ours(args, sock, name, what):
    p, n = (512, 1) if what == "pp" else (1, 128)
    out = subprocess.run([args.qllmctl, "--socket", sock, "bench", name, "-p", str(p), "-n", str(n), "--repeat", "1",
                          "--json"], check=True, capture_output=True, timeout=600).stdout
    r = json.loads(out)
    return r[what]["tok_s"], r


def hog(seconds=300):
    return subprocess.Popen([sys.executable, "-c", f"import time\nt=time.time()\nwhile time.time()-t<{seconds}: pass"])


def main():
    ap = argparse.ArgumentParser()
    for o in ("--llama-bench", "--qllmd", "--qllmctl"):
        ap.add_argument(o, required=True)
    ap.add_argument("--rounds", type=int, default=5)
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--hog", action="store_true")
    ap.add_argument("models", nargs="+")
    args = ap.parse_args()
    with tempfile.TemporaryDirectory() as d:
        sock = os.path.join(d, "q.sock")
        daemon = subprocess.Popen([args.qllmd, "--socket", sock, "--state-dir", d + "/state", "--cache-dir", d + "/cache",
                                   "--threads", str(args.threads), "--log-level", "warning"])
        try:
            for _ in range(100):
                if subprocess.run([args.qllmctl, "--socket", sock, "is-ready"], capture_output=True).returncode == 0:
                    break
                time.sleep(0.1)
            for spec in args.models:
                name, model = spec.split("=", 1)
                subprocess.run([args.qllmctl, "--socket", sock, "import", model, "--name", name, "--in-place"], check=True,
                               stdout=subprocess.DEVNULL)
                subprocess.run([args.qllmctl, "--socket", sock, "load", name, "--pin"], check=True,
                               stdout=subprocess.DEVNULL)
                idle = {}
                for busy in ([False, True] if args.hog else [False]):
                    for what in ("pp", "tg"):
                        a, b, last = [], [], None
                        for _ in range(args.rounds):
                            h = hog() if busy else None
                            try:
                                x, last = ours(args, sock, name, what)
                                a.append(x)
                                b.append(llama(args, model, what))
                            finally:
                                if h:
                                    h.send_signal(signal.SIGKILL)
                                    h.wait()
                        mine, theirs = statistics.median(a), statistics.median(b)
                        label = f"{name} {what}{512 if what == 'pp' else 128}{' beside a busy process' if busy else ''}"
                        extra = ""
                        if busy:
                            extra = f", keeps {mine / idle[what][0]:.2f} (llama.cpp {theirs / idle[what][1]:.2f})"
                        else:
                            idle[what] = (mine, theirs)
                        if what == "tg":
                            extra += f", {last['tg'].get('fraction', 0) or 0:.2f} of measured read bandwidth"
                        print(f"{label}: qllmd {mine:.1f} llama.cpp {theirs:.1f} tokens/s, ratio {mine / theirs:.2f}{extra}"
                              f"  [{min(a):.0f}-{max(a):.0f} | {min(b):.0f}-{max(b):.0f}]", flush=True)
                subprocess.run([args.qllmctl, "--socket", sock, "unload", name], stdout=subprocess.DEVNULL)
        finally:
            daemon.terminate()
            daemon.wait(40)


if __name__ == "__main__":
    main()
