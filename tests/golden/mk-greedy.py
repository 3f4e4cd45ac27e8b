#!/usr/bin/env python3
"""Make greedy-NAME.json: llama.cpp's greedy continuation of prompts.json, as token ids.

usage: mk-greedy.py LLAMA_SERVER MODEL.gguf OUT.json
Starts the given llama-server on a Unix socket, asks for 48 tokens at temperature 0 per prompt (the vocabulary's
BOS rule applied by the server's tokenizer) and writes [{"prompt": [ids], "tokens": [ids]}]. A text that ends with
an end-of-generation token is shorter.
"""
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost")
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self.path)


def post(sock, url, body):
    c = UnixConnection(sock)
    c.request("POST", url, json.dumps(body), {"Content-Type": "application/json"})
    r = c.getresponse()
    data = r.read()
    if r.status != 200:
        raise SystemExit(f"{url}: {r.status} {data[:300]!r}")
    return json.loads(data)


def wait_ready(sock, proc):
    for _ in range(300):
        if proc.poll() is not None:
            raise SystemExit("llama-server ended early")
        try:
            c = UnixConnection(sock)
            c.request("GET", "/health")
            if c.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise SystemExit("llama-server did not get ready in 60 s")


def main():
    server, model, out = sys.argv[1:4]
    with open(os.path.join(HERE, "prompts.json")) as f:
        prompts = json.load(f)
    with tempfile.TemporaryDirectory() as d:
        sock = os.path.join(d, "s.sock")
        proc = subprocess.Popen([server, "-m", model, "--host", sock, "-t", "2", "-np", "1", "-c", "1024"],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_ready(sock, proc)
            rows = []
            for p in prompts:
                ids = post(sock, "/tokenize", {"content": p, "add_special": True})["tokens"]
                r = post(sock, "/completion", {"prompt": ids, "n_predict": 48, "temperature": 0,
                                               "return_tokens": True, "cache_prompt": False})
                rows.append({"prompt": ids, "tokens": r["tokens"]})
        finally:
            proc.terminate()
            proc.wait(10)
    with open(out, "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(r) for r in rows) + "\n]\n")


if __name__ == "__main__":
    main()
