"""tests/bench/compare.py against a peer that is a script, and what it writes; sizes so small that nothing is measured."""

import json
import os
import subprocess
import sys
import tempfile
import xml.dom.minidom

from harness import BUILD, SLOW, SRC, model_file

PEER = """#!/bin/sh
case "$*" in
*"--repack 0"* | *--no-repack*) echo "no tiles here" >&2; exit 1 ;;
*"-fa 0"* | *"-fa off"*) rate=%s ;;
*) rate=%s ;;
esac
"""
ROW = {"llama-bench": '[{"avg_ts": \'$rate\'}]', "llama-batched-bench": '{"speed_tg": \'$rate\', "speed": 1}'}


def compare(tmp, *more):
    p = subprocess.run([sys.executable, os.path.join(SRC, "tests", "bench", "compare.py"), "--build", BUILD, "--out", tmp,
                        "--rounds", "1", "--shrink", "64", *more, "m=" + model_file("smollm2")], capture_output=True,
                       timeout=120 * SLOW)
    assert p.returncode == 0, p
    found = [name for name in os.listdir(tmp) if name.endswith(".json")]
    assert len(found) == 1, found
    base = os.path.join(tmp, found[0][:-5])
    with open(base + ".json") as f:
        results = {r["measure"]: r for r in json.load(f)["results"]}
    with open(base + ".txt") as f:
        text = f.read()
    xml.dom.minidom.parse(base + ".svg")
    return results, text


def test_compare():
    with tempfile.TemporaryDirectory() as tmp:
        peer, out = os.path.join(tmp, "peer"), os.path.join(tmp, "out")
        os.mkdir(peer)
        for name, row in ROW.items():
            with open(os.path.join(peer, name), "w") as f:
                f.write(PEER % (2000, 1000) + f"echo '{row}'\n")
            os.chmod(f.name, 0o755)
        r, text = compare(out, "--measures", "tg128,pp512,clients_8,prefix_2000,clock", "--llama-cpp", peer)
        assert r.keys() == {"tg128", "pp512", "clients_8", "prefix_2000", "clock"}, r.keys()
        assert not any("missing" in x for x in r.values()), text
        for name in ("tg128", "pp512", "clients_8"):        # the best setting, and the one that fails is told
            x = r[name]
            assert x["arms"]["llama.cpp"]["values"] == [2000] and x["settings"]["llama.cpp"] in ("-fa 0", "-fa off"), x
            assert abs(x["ratios"]["llama.cpp"]["median"] - x["arms"]["qllmd"]["median"] / 2000) < 1e-9, x
            assert any("no tiles here" in note for note in x["notes"]), x
        assert 0 < r["tg128"]["figures"]["fraction of the read bandwidth"] < 2, r["tg128"]
        assert 0 < r["pp512"]["figures"]["fraction of the peak"] < 1, r["pp512"]
        assert r["prefix_2000"]["notes"] == [f"{peer} has no llama-server"], r["prefix_2000"]
        assert r["prefix_2000"]["better"] == "lower" and "llama.cpp" not in r["prefix_2000"]["arms"]
        # run again, a measure replaces itself and leaves the others
        again, _ = compare(out, "--measures", "clock")
        assert again["tg128"] == r["tg128"] and again["clock"]["arms"] != r["clock"]["arms"], again
