#!/bin/sh
# Hold every folder to its row of the layer table (doc/ARCHITECTURE.md, layers).
#
# A row names what a folder may include besides itself: a folder, or single headers of it. Includes of
# the project are root-relative and quoted; a name without a folder is config.h and nothing else.
set -eu
cd "${QLLM_SRCDIR:-$(dirname "$0")/..}"
export LC_ALL=C

# folder: allowed, lowest layer first
rows='
base:
kernels: base
proto: base
format: base kernels/qtype.h kernels/pack.h
client: base proto
text: base format/gguf.h
gateway: base client/qllm.h
model: base kernels/kvtype.h kernels/qtype.h kernels/pack.h format text
engine: base kernels text model
train: base kernels format text model engine
quant: base kernels format text model engine train proto
daemon: base kernels/kvtype.h proto model/model.h engine/engine.h engine/request.h engine/sink.h
'
folders=$(printf '%s\n' "$rows" | sed -n 's/^\([a-z]*\):.*/\1/p')

list=$(mktemp)
trap 'rm -f "$list"' EXIT
for folder in $folders; do
	if [ -d "$folder" ]; then
		find "$folder" -type f \( -name '*.c' -o -name '*.h' \) ! -name '*.pb-c.[ch]' -print
	fi
done | sort >"$list"
n_files=$(grep -c . "$list")
[ "$n_files" -gt 0 ] || { echo "lint-layers: no sources under $(pwd)" >&2; exit 1; }

xargs awk -v rows="$rows" '
	function complain(text) {
		printf "%s:%d: %s\n", FILENAME, FNR, text
		bad++
	}
	BEGIN {
		n = split(rows, row, "\n")
		for (i = 1; i <= n; i++) {
			m = split(row[i], word, /[: ]+/)
			if (m == 0 || word[1] == "")
				continue
			known[word[1]] = 1
			allowed[word[1], word[1]] = 1
			for (j = 2; j <= m; j++)
				if (word[j] != "")
					allowed[word[1], word[j]] = 1
		}
	}
	/^[ \t]*#[ \t]*include[ \t]*[<"]/ {
		quoted = $0 ~ /include[ \t]*"/
		name = $0
		sub(/^[^<"]*[<"]/, "", name)
		sub(/[>"].*$/, "", name)
		folder = FILENAME
		sub(/\/.*/, "", folder)
		target = name
		if (name ~ /^\.\.?\//)
			complain("relative include of " name)
		else if (!sub(/\/.*/, "", target)) {
			if (quoted && name != "config.h")
				complain("write the folder: \"" folder "/" name "\"")
		} else if (target in known) {
			if (!quoted)
				complain("own header in angle brackets: " name)
			else if (!((folder, target) in allowed) && !((folder, name) in allowed))
				complain(folder " may not include " name)
		} else if (quoted)
			complain("no such folder in the layers: " name)
	}
	END { exit bad > 0 }
' <"$list" || { echo "lint-layers: includes against the layers" >&2; exit 1; }
echo "lint-layers: $n_files files, no upward include"
