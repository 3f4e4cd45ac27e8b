"""The engines that qllmd is compared with, as their own programs measure them; a server where theirs is asked for.

Each has settings that help on one machine and hurt on another. settings() names them all; compare.py runs each one
once and goes on with the best."""

import concurrent.futures
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import benchlib

PROGRAMS = ("llama-bench", "llama-batched-bench", "llama-server")
OFTEN = 0.002                           # seconds between two looks at a server that starts


class Missing(benchlib.Failed):
    """This peer has no such measure; why."""


def find(path):
    """The folder of the programs: PATH, or bin or build/bin below it; of a source tree without, they are built."""
    for below in ("", "bin", "build/bin"):
        folder = os.path.join(path, below)
        if os.path.exists(os.path.join(folder, "llama-bench")):
            return os.path.abspath(folder)
    if not os.path.exists(os.path.join(path, "CMakeLists.txt")):
        sys.exit(f"{path} has no llama-bench, and is no source tree of it either")
    build = os.path.join(benchlib.CACHE, "qllmd", "bench", os.path.basename(os.path.abspath(path)))
    print(f"building {path} in {build}", file=sys.stderr)
    subprocess.run(["cmake", "-S", path, "-B", build, "-DCMAKE_BUILD_TYPE=Release", "-DLLAMA_CURL=OFF"], check=True,
                   stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", build, "--parallel", str(os.cpu_count()), "--target", *PROGRAMS], check=True,
                   stdout=subprocess.DEVNULL)
    return os.path.join(build, "bin")


class Setting:
    def __init__(self, *options, env=None):
        self.options, self.env = list(options), env or {}

    def __str__(self):
        return " ".join([*(f"{k}={v}" for k, v in self.env.items()), *self.options]) or "defaults"


class Peer:
    """What both forks of the same program have in common."""

    def __init__(self, name, folder, threads):
        self.name, self.folder, self.threads = name, find(folder), threads

    def program(self, name):
        path = os.path.join(self.folder, name)
        if not os.path.exists(path):
            raise Missing(f"{self.folder} has no {name}")
        return path

    def run(self, name, setting, *args):
        env = dict(os.environ, LD_LIBRARY_PATH=self.folder, **setting.env)
        return benchlib.output([self.program(name), *map(str, args), "-t", str(self.threads), *setting.options], env)

    def bench(self, setting, model, *args):
        """tokens/s of llama-bench's one test, run once after its own warm-up."""
        rows = json.loads(self.run("llama-bench", setting, "-m", model, "-r", 1, "-o", "json", *args))
        if len(rows) != 1:
            raise Missing(f"llama-bench ran {len(rows)} tests for {' '.join(map(str, args))}")
        return rows[0]["avg_ts"]

    def prompt(self, setting, model, n, kv="f16"):
        return self.bench(setting, model, "-p", n, "-n", 0, *self.cache(kv))

    def cache(self, kv):
        if kv not in ("f16", "kv8"):
            raise Missing(f"no cache type of {self.name} corresponds to {kv}")
        return [] if kv == "f16" else ["-ctk", "q8_0", "-ctv", "q8_0"]

    def batched(self, setting, model, npp, ntg, npl):
        raise Missing(f"{self.name} is measured by its llama-bench only")

    def server(self, setting, model, slots, ctx):
        raise Missing(f"{self.name} is measured by its llama-bench only")


class LlamaCpp(Peer):
    def settings(self, kv="f16"):
        """Without flash attention there is no quantized V cache."""
        found = [Setting("-fa", "1"), Setting("-fa", "1", "--repack", "0"),
                 Setting("-fa", "1", env={"GGML_CPU_TILED_MM": "0"})]
        return found + ([Setting("-fa", "0")] if kv == "f16" else [])

    def generate(self, setting, model, n, depth=0, kv="f16"):
        return self.bench(setting, model, "-p", 0, "-n", n, "-d", depth, *self.cache(kv))

    def batched_settings(self):
        return [Setting("-fa", "on"), Setting("-fa", "off"), Setting("-fa", "on", "--no-repack"),
                Setting("-fa", "on", env={"GGML_CPU_TILED_MM": "0"})]

    def batched(self, setting, model, npp, ntg, npl):
        """llama-batched-bench's row: "speed_tg", "speed" ..."""
        out = self.run("llama-batched-bench", setting, "-m", model, "-c", (npp + ntg) * npl + 256, "-npp", npp, "-ntg", ntg,
                       "-npl", npl, "--output-format", "jsonl")
        rows = [json.loads(text) for text in out.decode().splitlines() if text.startswith("{")]
        if len(rows) != 1:
            raise Missing("llama-batched-bench printed no result")
        return rows[0]

    def server(self, setting, model, slots, ctx):
        return Server(self, setting, model, slots, ctx)


class IkLlama(Peer):
    def settings(self, kv="f16"):
        return [Setting("-fa", fa, "-rtr", rtr) for fa in (("1", "0") if kv == "f16" else ("1",)) for rtr in ("0", "1")]

    def generate(self, setting, model, n, depth=0, kv="f16"):
        if depth == 0:
            return self.bench(setting, model, "-p", 0, "-n", n, *self.cache(kv))
        return self.bench(setting, model, "-p", 0, "-n", 0, "-gp", f"{depth},{n}", *self.cache(kv))

    def batched_settings(self):
        """None: it has no llama-batched-bench."""
        return []


class Server:
    """llama-server on a port of its own, started by start()."""

    def __init__(self, peer, setting, model, slots, ctx):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.argv = [peer.program("llama-server"), "-m", model, "--host", "127.0.0.1", "--port", str(self.port), "-np",
                     str(slots), "-c", str(slots * ctx), "-t", str(peer.threads), *setting.options]
        self.env = dict(os.environ, LD_LIBRARY_PATH=peer.folder, **setting.env)
        self.process = None

    def start(self):
        self.process = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL, env=self.env)

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def first_token(self, tokens):
        """Seconds from sending a prompt of ids to its first token, waiting for a server that still loads."""
        body = json.dumps({"prompt": tokens, "n_predict": 1, "stream": True, "cache_prompt": True, "temperature": 0})
        begin = time.monotonic()
        while time.monotonic() - begin < 300:
            try:
                request = urllib.request.Request(f"http://127.0.0.1:{self.port}/completion", body.encode(),
                                                 {"Content-Type": "application/json"})
                with urllib.request.urlopen(request, timeout=300) as answer:
                    for text in answer:
                        if text.startswith(b"data:"):
                            return time.monotonic() - begin
                raise benchlib.Failed("llama-server answered without a token")
            except urllib.error.HTTPError as e:
                if e.code != 503:
                    raise benchlib.Failed(f"llama-server: {e}") from e
            except OSError:
                pass
            if self.process.poll() is not None:
                raise benchlib.Failed(f"llama-server ended with {self.process.returncode}")
            time.sleep(OFTEN)
        raise benchlib.Failed("llama-server does not answer")

    def first_tokens(self, prompts):
        """All at once, each by a client of its own."""
        with concurrent.futures.ThreadPoolExecutor(len(prompts)) as pool:
            return list(pool.map(self.first_token, prompts))


def given(args):
    """The peers of the command line."""
    found = [LlamaCpp("llama.cpp", path, args.threads) for path in args.llama_cpp or []]
    found += [IkLlama("ik_llama.cpp", path, args.threads) for path in args.ik_llama_cpp or []]
    for i, p in enumerate(found):           # two builds of one
        if any(p.name == q.name for q in found[:i]):
            p.name = f"{p.name} ({os.path.basename(os.path.dirname(p.folder)) or p.folder})"
    return found


