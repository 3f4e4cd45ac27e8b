#!/usr/bin/env python3
"""Instructions that chosen kernels take on fixed inputs, counted by callgrind and compared with tests/bench/gates.txt:
what got slower shows on a machine where no clock can be trusted.

usage: gates.py [--record] [PROGRAM]

PROGRAM is the built tests/bench/gates (default: below the current directory). More than 3 % over the recorded figure
fails; under it is said, and wants --record, which writes the file anew. Another compiler than the recorded one counts
otherwise: then, and without valgrind, the exit code is 77, as `make check` wants it of tests that do not apply.
"""
import glob
import os
import platform
import shutil
import subprocess
import sys
import tempfile

FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "gates.txt")
LEVELS = ("scalar", "scalar,avx2")
TOLERANCE = 0.03
SKIP = 77


def skip(why):
    print(f"skip gates: {why}")
    sys.exit(SKIP)


def read_file():
    """The compiler and {(level, kernel): instructions}."""
    compiler, figures = "", {}
    with open(FILE) as f:
        for text in f:
            if text.startswith("# compiler: "):
                compiler = text[12:].strip()
            elif text.strip() and not text.startswith("#"):
                level, *kernel, count = text.split()
                figures[level, " ".join(kernel)] = int(count)
    return compiler, figures


def count(program, levels):
    """{(level, kernel): instructions}; None where the machine lacks the level."""
    with tempfile.TemporaryDirectory() as d:
        run = subprocess.run(["valgrind", "--tool=callgrind", "-q", f"--callgrind-out-file={d}/out",
                              "--zero-before=gate_begin", "--dump-after=gate_end", program, levels],
                             stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
        if run.returncode != 0:
            sys.exit(f"gates: {run.stderr.strip() or run.returncode}")
        names = run.stdout.splitlines()
        level, kernels = names[1], names[2:]
        if level != levels.split(",")[-1]:
            return None
        figures = {}
        for i, kernel in enumerate(kernels, 1):
            with open(f"{d}/out.{i}") as f:
                totals = [text for text in f if text.startswith(("totals:", "summary:"))]
            figures[level, kernel] = int(totals[-1].split()[1])
        extra = [p for p in glob.glob(f"{d}/out.*") if int(p.rsplit(".", 1)[1]) > len(kernels) + 1]
        if extra:
            sys.exit("gates: callgrind wrote more dumps than there are gates")
        return figures


def main():
    args = sys.argv[1:]
    record = "--record" in args
    args = [a for a in args if a != "--record"]
    program = args[0] if args else "tests/bench/gates"
    if platform.machine() != "x86_64":
        skip(f"figures are of x86_64, this is {platform.machine()}")
    if not shutil.which("valgrind"):
        skip("valgrind is not installed")
    compiler = subprocess.run([program], capture_output=True, text=True, check=True).stdout.strip()
    wanted, known = read_file() if os.path.exists(FILE) else ("", {})
    if not record and compiler != wanted:
        skip(f"figures are of {wanted}, this build is {compiler}")
    figures = {}
    for levels in LEVELS:
        found = count(program, levels)
        if found is None:
            print(f"this machine does not run {levels.split(',')[-1]}: its gates are left out")
        figures.update(found or {})
    if record:
        with open(FILE, "w") as f:
            f.write("# Instructions of kernels on the inputs of tests/bench/gates.c: level, kernel, type, tokens or "
                    "queries, count.\n# Written by gates.py --record.\n")
            f.write(f"# compiler: {compiler}\n")
            for (level, kernel), n in figures.items():
                f.write(f"{level} {kernel} {n}\n")
        return 0
    failed = False
    for key, n in figures.items():
        label = " ".join(key)
        if key not in known:
            print(f"FAIL {label}: {n} instructions, and no figure is recorded: gates.py --record")
            failed = True
        elif n > known[key] * (1 + TOLERANCE):
            print(f"FAIL {label}: {n} instructions, {n / known[key]:.2f} times the recorded {known[key]}")
            failed = True
        elif n < known[key] * (1 - TOLERANCE):
            print(f"ok   {label}: {n} instructions, {n / known[key]:.2f} times the recorded {known[key]}: "
                  "record it with gates.py --record")
    for key in known:
        if key not in figures and any(key[0] == k[0] for k in figures):
            print(f"FAIL {' '.join(key)}: recorded, but no gate counts it any more: gates.py --record")
            failed = True
    print(f"{len(figures)} kernels counted, {compiler}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
