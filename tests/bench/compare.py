#!/usr/bin/env python3
"""qllmd beside other engines, on this machine, with one command:

    compare.py --llama-cpp DIR --ik-llama-cpp DIR [--measures NAME,...] [NAME=MODEL.gguf ...]

DIR: where llama-bench, llama-batched-bench and llama-server are, or a source tree, which is built. Either may be left
out. Models default to the two that tests/lib/fetch-models.sh fetches. Arms alternate within each measure; figures are
medians with the smallest and largest value, ratios are of the rounds. Each peer runs with the best of its settings
(--no-tune: with its first). --list tells the measures. Results go to doc/benchmarks (--out), one file for each machine.
"""
import os
import random
import statistics
import subprocess
import sys
import time

import benchlib
import peers
import report
from benchlib import Failed
from peers import Missing

VOCAB = 30000
CLIENTS, SHARED, OWN = 8, 2000, 16      # of the shared prefix
START_PROMPT = 16


class Plan:
    """arms: {name: function}; "qllmd" and the peers among them are compared, the others shown or, when their name begins
    with a dot, only used by figures(samples), which returns {what: number} or notes (str) in a list."""

    def __init__(self, unit, arms, better="higher", settings=None, figures=None, end=None):
        self.unit, self.arms, self.better = unit, arms, better
        self.settings, self.figures, self.end = settings or {}, figures, end
        self.notes = []


class Run:
    """One model on one daemon, and what the measures ask of it."""

    def __init__(self, args, daemon, name, path, others):
        self.args, self.daemon, self.name, self.path, self.peers = args, daemon, name, path, others
        self.names = {}                 # KV type -> name of the model loaded with it
        self.bytes_per_token = self.flops_per_token = 0
        self.notes = []

    def tokens(self, n):
        """Sizes are divided by --shrink, which is for trying the script out."""
        return max(n // self.args.shrink, 2)

    def model(self, kv="f16"):
        if kv not in self.names:
            name = f"{self.name}-{kv}"
            try:
                self.daemon.add(name, self.path, *(["--kv", kv] if kv != "f16" else []))
            except Failed as e:
                raise Missing(f"no model with --kv {kv}: {e}") from e
            self.names[kv] = name
        return self.names[kv]

    def bench(self, *options, kv="f16"):
        r = self.daemon.json("bench", self.model(kv), "--repeat", 1, *options)
        self.bytes_per_token, self.flops_per_token = r["tg"]["bytes_per_token"], r["flops_per_token"]
        return r

    def stream(self, clients, shared, own, gen, kv="f16", again=False):
        argv = [benchlib.program(self.args.build, "tests/bench/stream"), self.daemon.socket, self.model(kv), clients,
                shared, own, gen] + (["again"] if again else [])
        return benchlib.json.loads(benchlib.output(list(map(str, argv)), self.daemon.env))

    def read(self):
        """GB/s of the daemon's threads that only load the weights."""
        return self.bench("-p", 1, "-n", 1)["tg"]["read_bw_gb_s"]

    def peak(self):
        """tera-operations a second of the fastest multiply-add; of 8 bits where there is one."""
        out = benchlib.output([benchlib.program(self.args.build, "tests/bench/peak"), str(self.args.threads)])
        return max(benchlib.json.loads(out).values(), default=float("nan"))

    def tuned(self, plan, measure, settings="settings", **how):
        """Adds an arm for each peer: measure(peer, setting), with the setting that did best in one run of each."""
        for peer in self.peers:
            best = None
            choices = getattr(peer, settings)(**how)
            if not choices:
                plan.notes.append(f"{peer.name} is measured by its llama-bench only")
            for setting in choices if self.args.tune else choices[:1]:
                try:
                    rate = measure(peer, setting) if len(choices) > 1 and self.args.tune else 0
                except Missing as e:
                    plan.notes.append(str(e))
                    break
                except Failed as e:
                    plan.notes.append(f"{peer.name} with {setting} fails: {e}")
                    continue
                if best is None or rate > best[0]:
                    best = (rate, setting)
            if best:
                plan.settings[peer.name] = str(best[1])
                plan.arms[peer.name] = lambda peer=peer, setting=best[1]: measure(peer, setting)
        return plan


def fraction_of_read(run, samples, kv_bytes=0):
    """Of what loads alone would give: weights of one token and the cache that it reads."""
    limit = samples[".read"].median * 1e9 / (run.bytes_per_token + kv_bytes)
    return {"read bandwidth, GB/s": samples[".read"].median,
            "fraction of the read bandwidth": samples["qllmd"].median / limit}


def fraction_of_peak(run, samples):
    rate = samples["qllmd"].median * run.flops_per_token / 1e12
    return {"TFLOP/s": rate, "peak, TOP/s": samples[".peak"].median,
            "fraction of the peak": rate / samples[".peak"].median}


def generate(run, n=128):
    n = run.tokens(n)
    plan = Plan("tokens/s", {"qllmd": lambda: run.bench("-p", 1, "-n", n)["tg"]["tok_s"], ".read": run.read},
                figures=lambda s: fraction_of_read(run, s))
    return run.tuned(plan, lambda peer, setting: peer.generate(setting, run.path, n))


def prompt(run, n=512):
    n = run.tokens(n)
    plan = Plan("tokens/s", {"qllmd": lambda: run.bench("-p", n, "-n", 1)["pp"]["tok_s"], ".peak": run.peak},
                figures=lambda s: fraction_of_peak(run, s))
    return run.tuned(plan, lambda peer, setting: peer.prompt(setting, run.path, n))


def at_depth(depth, kv):
    def plan(run):
        n, d = run.tokens(64), run.tokens(depth)
        per_token = run.daemon.json("estimate", run.model(kv), "--kv", kv)["kv_bytes_per_token"]
        p = Plan("tokens/s", {"qllmd": lambda: run.stream(1, 0, d, n + 1, kv)["tok_s"], ".read": run.read},
                 figures=lambda s: fraction_of_read(run, s, per_token * d))
        return run.tuned(p, lambda peer, setting: peer.generate(setting, run.path, n, d, kv), kv=kv)
    return plan


def long_prompt(kv):
    def plan(run):
        n = run.tokens(4096)
        arms = {"qllmd": lambda: n / run.stream(1, 0, n, 1, kv)["first_s"][0], ".peak": run.peak}
        if kv != "f16":
            arms["qllmd f16"] = lambda: n / run.stream(1, 0, n, 1)["first_s"][0]

        def figures(s):
            more = {f"{kv} against f16": s["qllmd"].over(s["qllmd f16"]).median} if kv != "f16" else {}
            return {**fraction_of_peak(run, s), **more}
        p = Plan("tokens/s", arms, figures=figures)
        return run.tuned(p, lambda peer, setting: peer.prompt(setting, run.path, n, kv), kv=kv)
    return plan


def clients(n):
    """Generation alone, as llama-batched-bench has it after all prompts: the daemon knows the prompts already."""
    def plan(run):
        npp, ntg, cached = run.tokens(128), run.tokens(64), []

        def ours():
            r = run.stream(n, 0, npp + 1, ntg, again=True)
            cached.append(statistics.mean(r["cached_tokens"]))
            return r["full_tok_s"] or r["tok_s"]
        p = Plan("tokens/s", {"qllmd": ours},
                 figures=lambda s: {"prompt tokens known before, mean": statistics.mean(cached)})
        return run.tuned(p, lambda peer, setting: peer.batched(setting, run.path, npp, ntg, n)["speed_tg"],
                         "batched_settings")
    return plan


def clients_whole(n):
    """New prompts and their answers over all the time from the first request to the last token."""
    def plan(run):
        npp, ntg = run.tokens(128), run.tokens(64)
        p = Plan("tokens/s", {"qllmd": lambda: n * (npp + ntg) / run.stream(n, 0, npp, ntg)["total_s"]})
        return run.tuned(p, lambda peer, setting: peer.batched(setting, run.path, npp, ntg, n)["speed"],
                         "batched_settings")
    return plan


def shared_prefix(run):
    shared, servers, cached = run.tokens(SHARED), [], []

    def ours():
        r = run.stream(CLIENTS, shared, OWN, 1)
        cached.append(statistics.mean(r["cached_tokens"]))
        return 1e3 * statistics.mean(r["first_s"])

    def theirs(server):
        first = [random.randrange(VOCAB) for _ in range(shared)]
        prompts = [first + [random.randrange(VOCAB) for _ in range(OWN)] for _ in range(CLIENTS)]
        return 1e3 * statistics.mean(server.first_tokens(prompts))

    plan = Plan("ms", {"qllmd": ours}, "lower", end=lambda: [s.stop() for s in servers],
                figures=lambda s: {"cached tokens of a client, mean": statistics.mean(cached)})
    for peer in run.peers:
        try:
            server = peer.server(peers.Setting(), run.path, CLIENTS, shared + OWN + 64)
        except Missing as e:
            plan.notes.append(str(e))
            continue
        servers.append(server)
        server.start()
        server.first_token([1])         # loaded and warm
        plan.arms[peer.name] = lambda server=server: theirs(server)
    return plan


def beside_busy(run):
    """At equal priority; what each keeps of its own idle rate in the same rounds."""
    n = run.tokens(128)

    def busy(arm):
        hog = benchlib.hog()
        try:
            return arm()
        finally:
            hog.kill()
            hog.wait()

    idle = Plan("tokens/s", {"qllmd": lambda: run.bench("-p", 1, "-n", n)["tg"]["tok_s"]})
    run.tuned(idle, lambda peer, setting: peer.generate(setting, run.path, n))
    arms = {name: lambda arm=arm: busy(arm) for name, arm in idle.arms.items()}
    arms.update({f"{name} idle": arm for name, arm in idle.arms.items()})
    plan = Plan("tokens/s", arms, settings=idle.settings,
                figures=lambda s: {f"{name} keeps": s[name].over(s[name + " idle"]).median for name in idle.arms})
    plan.notes = idle.notes
    return plan


def warm_start(run):
    """From starting the daemon, with the model in its store and in the page cache, to the first token."""
    daemon = benchlib.Daemon(run.args.build, threads=run.args.threads, cpu=run.args.cpu)
    stream = [benchlib.program(run.args.build, "tests/bench/stream"), daemon.socket, "m", "1", "0", str(START_PROMPT), "1"]

    def ours():
        daemon.stop()
        begin = time.monotonic()
        daemon.process = subprocess.Popen(daemon.argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                          stderr=subprocess.DEVNULL, env=daemon.env)
        return 1e3 * (benchlib.json.loads(benchlib.output(stream, daemon.env))["first_at"] - begin)

    def theirs(peer):
        server = peer.server(peers.Setting(), run.path, 1, 512)
        begin = time.monotonic()
        server.start()
        try:
            server.first_token([random.randrange(VOCAB) for _ in range(START_PROMPT)])
            return 1e3 * (time.monotonic() - begin)
        finally:
            server.stop()

    def figures(_):
        """Pages of the weights: clean ones are the page cache's, and the same for every daemon."""
        mapped = dirty = 0
        with open(f"/proc/{daemon.process.pid}/smaps") as f:
            weights = False
            for text in f:
                field = text.split()
                if not field[0].endswith(":"):
                    weights = len(field) > 5 and field[5].startswith(daemon.dir + "/state/")
                elif weights and field[0] == "Rss:":
                    mapped += int(field[1])
                elif weights and field[0] in ("Private_Dirty:", "Shared_Dirty:"):
                    dirty += int(field[1])
        return {"pages of weights, MiB": mapped / 1024, "dirty ones among them, MiB": dirty / 1024}

    plan = Plan("ms", {"qllmd": ours}, "lower", figures=figures, end=daemon.__exit__)
    daemon.__enter__()
    try:
        daemon.add("m", run.path)
    except Failed:
        daemon.__exit__()
        raise
    for peer in run.peers:
        try:
            peer.server(peers.Setting(), run.path, 1, 512)
            plan.arms[peer.name] = lambda peer=peer: theirs(peer)
        except Missing as e:
            plan.notes.append(str(e))
    return plan


def clock(run):
    """What qllmctl bench says and what another client sees."""
    n = run.tokens(128)
    return Plan("tokens/s", {"qllmd": lambda: run.bench("-p", 1, "-n", n)["tg"]["tok_s"],
                             "other client": lambda: run.stream(1, 0, 1, n + 1)["tok_s"]},
                figures=lambda s: {"bench / other client": s["qllmd"].median / s["other client"].median})


MEASURES = {
    "tg128": ("128 tokens for one client", generate),
    "pp512": ("a prompt of 512 tokens", prompt),
    "tg_4096_f16": ("64 tokens after 4,096, cache f16", at_depth(4096, "f16")),
    "tg_4096_kv8": ("64 tokens after 4,096, cache of 8 bits", at_depth(4096, "kv8")),
    "tg_7680_f16": ("64 tokens after 7,680, cache f16", at_depth(7680, "f16")),
    "tg_7680_kv8": ("64 tokens after 7,680, cache of 8 bits", at_depth(7680, "kv8")),
    "pp_4096_f16": ("a prompt of 4,096 tokens, cache f16", long_prompt("f16")),
    "pp_4096_kv8": ("a prompt of 4,096 tokens, cache of 8 bits", long_prompt("kv8")),
    "clients_8": ("8 clients, 128 in and 64 out each: generation", clients(8)),
    "clients_32": ("32 clients, 128 in and 64 out each: generation", clients(32)),
    "clients_8_all": ("8 clients, 128 in and 64 out each: prompts and answers", clients_whole(8)),
    "clients_32_all": ("32 clients, 128 in and 64 out each: prompts and answers", clients_whole(32)),
    "prefix_2000": ("8 clients that share 2,000 tokens: mean time to first token", shared_prefix),
    "tg128_busy": ("128 tokens beside a busy process", beside_busy),
    "warm_start": ("start of the daemon to the first token after 16", warm_start),
    "clock": ("qllmctl bench against another client's clock", clock),
}


def measure(run, name, rounds):
    """One row of MEASURES as a result for report.py."""
    title, make = MEASURES[name]
    if run.args.shrink > 1:
        title += f" (sizes divided by {run.args.shrink}: no benchmark)"
    result = {"measure": name, "title": title, "model": run.name, "date": time.strftime("%Y-%m-%d"),
              "commit": run.args.commit, "rounds": rounds}
    try:
        plan = make(run)
    except Failed as e:
        return {**result, "missing": str(e)}
    try:
        others = benchlib.busy_others()
        samples = benchlib.alternate(plan.arms, rounds)
        figures = plan.figures(samples) if plan.figures else {}
    except Failed as e:
        return {**result, "missing": str(e)}
    finally:
        if plan.end:
            plan.end()
    ours, ratios = samples["qllmd"], {}
    for peer in run.peers:
        if peer.name in samples:
            theirs = samples[peer.name]
            ratio = ours.over(theirs) if plan.better == "higher" else theirs.over(ours)
            ratios[peer.name] = ratio.json()
    return {**result, "unit": plan.unit, "better": plan.better, "settings": plan.settings, "ratios": ratios,
            "arms": {a: s.json() for a, s in samples.items() if not a.startswith(".")}, "figures": figures,
            "notes": plan.notes, "others": others}


def commit():
    try:
        return subprocess.run(["git", "-C", benchlib.SRC, "describe", "--always", "--dirty"], capture_output=True, text=True,
                              check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "an unknown commit"


def main():
    ap = benchlib.parser(__doc__)
    ap.add_argument("--llama-cpp", action="append", metavar="DIR")
    ap.add_argument("--ik-llama-cpp", action="append", metavar="DIR")
    ap.add_argument("--measures", help="comma list; default: all")
    ap.add_argument("--list", action="store_true", help="name the measures and stop")
    ap.add_argument("--cpu", help="a level for QLLM_CPU: scalar,avx2 compares with a build of a peer for AVX2")
    ap.add_argument("--no-tune", dest="tune", action="store_false", help="peers with their first setting")
    ap.add_argument("--shrink", type=int, default=1, help="divide all sizes, to try the script out")
    ap.add_argument("--out", default=os.path.join(benchlib.SRC, "doc", "benchmarks"))
    ap.add_argument("models", nargs="*", metavar="NAME=FILE")
    args = ap.parse_args()
    if args.list:
        print("\n".join(f"{name:<15} {title}" for name, (title, _) in MEASURES.items()))
        return 0
    wanted = args.measures.split(",") if args.measures else list(MEASURES)
    for name in wanted:
        if name not in MEASURES:
            ap.error(f"no measure {name}; --list names them")
    args.commit = commit()
    others = peers.given(args)
    models = [m.split("=", 1) for m in args.models] or \
        [(name, os.path.join(benchlib.MODELS, name + ".gguf")) for name in ("smollm2", "gemma3")]
    for m in models:
        if len(m) != 2 or not os.path.exists(m[1]):
            ap.error(f"{'='.join(m)}: no such model; the test models come by tests/lib/fetch-models.sh")
    busy = benchlib.busy_others()
    if busy:
        print("not alone on the machine, so expect noise: " + ", ".join(f"{n} {x:.2f} CPU" for n, x in busy),
              file=sys.stderr)
    for name, path in models:
        with benchlib.Daemon(args.build, threads=args.threads, cpu=args.cpu) as daemon:
            status = daemon.json("status")
            machine = {"cpu": status.get("cpu") or benchlib.cpu_name(), "kernels": status["kernels"],
                       "threads": args.threads}
            out = report.Report(args.out, machine)
            run = Run(args, daemon, name, path, others)
            for what in wanted:
                result = measure(run, what, args.rounds)
                out.add(result)
                print(report.text_of(result), flush=True)
    print(f"written: {out.base}.txt, .json, .svg", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
