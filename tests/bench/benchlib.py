"""What the benches share: a private daemon, arms that alternate, medians with spread, and who else uses the machine.
Standard library only.

    ap = benchlib.parser(__doc__)
    args = ap.parse_args()
    with benchlib.Daemon(args.build, threads=args.threads) as d:
        d.add("m", "model.gguf")
        got = benchlib.alternate({"on": lambda: rate(d, True), "off": lambda: rate(d, False)}, args.rounds)
        print(benchlib.line("lookup", got, "on", "off", "tokens/s"))
"""

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

SRC = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
CACHE = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
MODELS = os.environ.get("QLLM_MODELS") or os.path.join(CACHE, "qllmd", "models")


def parser(doc):
    """--build, --threads, --rounds: what every bench understands."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))    # so that daemons go with us
    ap = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--build", default=os.environ.get("QLLM_BUILDDIR") or os.path.join(SRC, "build", "check"),
                    help="build directory of qllmd (default: $QLLM_BUILDDIR, else build/check)")
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--rounds", type=int, default=5, help="each arm runs so often; figures are medians (default 5)")
    return ap


def program(build, name):
    """The program itself where `name` is libtool's wrapper."""
    real = os.path.join(build, os.path.dirname(name), ".libs", os.path.basename(name))
    path = real if os.path.exists(real) else os.path.join(build, name)
    if not os.path.exists(path):
        sys.exit(f"{path} is missing: build it, or name the build directory with --build")
    return path


class Failed(Exception):
    """A program of an arm failed: its own words."""


def output(argv, env=None, timeout=900):
    """stdout of a program that must succeed."""
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, env=env, timeout=timeout)
    except subprocess.TimeoutExpired as e:
        raise Failed(f"{os.path.basename(argv[0])} takes more than {timeout} s") from e
    if done.returncode != 0:
        said = (done.stderr.decode("utf-8", "replace").strip() or f"exit code {done.returncode}").splitlines()
        raise Failed(f"{os.path.basename(argv[0])}: {said[-1]}")
    return done.stdout


class Daemon:
    """A qllmd of our own in a directory of its own, both gone at the end. Its models outlive restart()."""

    def __init__(self, build, *options, threads=2, cpu=None):
        """cpu: a level for QLLM_CPU (avx2, scalar ...)."""
        self.build = build
        self.env = dict(os.environ, LD_LIBRARY_PATH=os.path.join(build, ".libs"), LC_ALL="C.UTF-8")
        self.env.pop("QLLM_SOCKET", None)
        if cpu:
            self.env["QLLM_CPU"] = cpu
        self.dir = tempfile.mkdtemp(prefix="qllm-bench-")
        self.socket = os.path.join(self.dir, "s")
        self.log = os.path.join(self.dir, "log")
        self.argv = [program(build, "qllmd"), "--socket", self.socket, "--state-dir", os.path.join(self.dir, "state"),
                     "--cache-dir", os.path.join(self.dir, "cache"), "--threads", str(threads), "--log-level",
                     "warning", *options]
        self.process = None

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.stop()
        shutil.rmtree(self.dir, ignore_errors=True)

    def start(self):
        """Returns when it takes connections: seconds since the fork."""
        begin = time.monotonic()
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env)
        while True:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
                try:
                    s.connect(self.socket)
                    return time.monotonic() - begin
                except OSError:
                    pass
            if self.process.poll() is not None or time.monotonic() - begin > 30:
                with open(self.log, "rb") as log:
                    raise Failed("qllmd does not start: " + log.read().decode("utf-8", "replace")[-500:])
            time.sleep(0.001)

    def stop(self):
        if self.process:
            self.process.terminate()
            try:
                self.process.wait(40)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None

    def restart(self):
        self.stop()
        return self.start()

    def ctl(self, *args, timeout=900):
        """stdout of qllmctl with these arguments."""
        return output([program(self.build, "qllmctl"), "--socket", self.socket, *map(str, args)], self.env, timeout)

    def json(self, *args, timeout=900):
        return json.loads(self.ctl("--json", *args, timeout=timeout))

    def add(self, name, path, *load, in_place=False):
        """Imports a GGUF file, loads it and keeps it loaded. load: options of `qllmctl load`."""
        self.ctl("import", path, "--name", name, *(["--in-place"] if in_place else []))
        self.ctl("load", name, "--pin", *load)


class Sample:
    """What one arm measured, in the order of the rounds."""

    def __init__(self, values):
        self.values = list(values)

    @property
    def median(self):
        return statistics.median(self.values)

    @property
    def low(self):
        return min(self.values)

    @property
    def high(self):
        return max(self.values)

    def over(self, other):
        """Ratios of the rounds: what both arms saw of the machine at about the same time."""
        return Sample(a / b if b else float("nan") for a, b in zip(self.values, other.values))

    def json(self):
        return {"median": self.median, "low": self.low, "high": self.high, "values": self.values}


def alternate(arms, rounds, beside=None):
    """arms: {name: function that returns a number}. Each round runs all arms, starting with another one each time, so
    that neither the machine's drift nor what the arm before left in the caches favours one. beside: a function that
    starts a process (hog) which runs beside every single arm. {name: Sample}."""
    names = list(arms)
    values = {name: [] for name in names}
    for r in range(rounds):
        for i in range(len(names)):
            name = names[(r + i) % len(names)]
            other = beside() if beside else None
            try:
                values[name].append(float(arms[name]()))
            finally:
                if other:
                    other.send_signal(signal.SIGKILL)
                    other.wait()
    return {name: Sample(v) for name, v in values.items()}


def line(label, got, ours, theirs, unit):
    """One line of text: medians, spread, and the median of the rounds' ratios with its spread."""
    a, b = got[ours], got[theirs]
    r = a.over(b)
    return (f"{label}: {ours} {a.median:.1f} [{a.low:.1f}-{a.high:.1f}], {theirs} {b.median:.1f} "
            f"[{b.low:.1f}-{b.high:.1f}] {unit}; ratio {r.median:.2f} [{r.low:.2f}-{r.high:.2f}]")


def hog(seconds=900):
    """A process that computes without end at our own priority, for `beside`."""
    return subprocess.Popen([sys.executable, "-c",
                             f"import time\nt=time.time()\nwhile time.time()-t<{seconds}: pass"])


def cpu_name():
    try:
        with open("/proc/cpuinfo") as f:
            for text in f:
                if text.startswith(("model name", "Model")):
                    return text.split(":", 1)[1].strip()
    except OSError:
        pass
    return "unknown processor"


def busy_others(seconds=0.5):
    """[(name, share of a processor)] of processes that used more than a tenth of one meanwhile, without ourselves and
    our children. The load average would not know of those that started just now."""
    def ticks():
        all_of_them = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/stat") as f:
                    head, rest = f.read().rsplit(")", 1)
            except OSError:
                continue
            field = rest.split()
            all_of_them[int(pid)] = (head.split("(", 1)[1], int(field[1]), int(field[11]) + int(field[12]))
        return all_of_them

    before, start = ticks(), time.monotonic()
    time.sleep(seconds)
    after, span = ticks(), (time.monotonic() - start) * os.sysconf("SC_CLK_TCK")
    found = []
    for pid, (name, parent, used) in after.items():
        share = (used - before.get(pid, (name, parent, used))[2]) / span
        if share > 0.1 and os.getpid() not in (pid, parent):
            found.append((name, round(share, 2)))
    return sorted(found, key=lambda x: -x[1])
