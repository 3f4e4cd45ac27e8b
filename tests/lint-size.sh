#!/bin/sh
# Files have at most 1,000 lines, functions at most 120 (kernels 200). Generated tables are exempt.
#
# A function runs from a "{" in the first column to the next "}" there, which is how all code here is laid out.
set -eu
cd "${QLLM_SRCDIR:-$(dirname "$0")/..}"
export LC_ALL=C
file_max=1000 function_max=120 kernel_max=200

# One pattern a line: tables that a script wrote.
exempt='
*.pb-c.[ch]
text/*-table.c
text/*-tables.c
'

list=$(mktemp)
trap 'rm -f "$list"' EXIT
find . -type d \( -name .git -o -name build -o -name '.*-cache' \) -prune -o \
	-type f \( -name '*.c' -o -name '*.h' \) ! -name 'config.h' -print | sed 's|^\./||' | sort |
while read -r file; do
	keep=1
	for pattern in $(set -f; printf '%s ' $exempt); do
		case $file in $pattern) keep=0 ;; esac
	done
	[ $keep = 0 ] || printf '%s\n' "$file"
done >"$list"
n_files=$(grep -c . "$list")
[ "$n_files" -gt 0 ] || { echo "lint-size: no sources under $(pwd)" >&2; exit 1; }

xargs awk -v file_max=$file_max -v function_max=$function_max -v kernel_max=$kernel_max '
	function end_file() {
		if (lines > file_max) {
			printf "%s: %d lines, at most %d: split it\n", file, lines, file_max
			bad++
		}
	}
	FNR == 1 {
		end_file()
		file = FILENAME
		start = 0
		max = file ~ /^(tests\/)?kernels\// ? kernel_max : function_max
	}
	{ lines = FNR }
	/^\{/ { start = FNR }
	/^\}/ {
		if (start && FNR - start - 1 > max) {
			printf "%s:%d: function of %d lines, at most %d\n", file, start, FNR - start - 1, max
			bad++
		}
		start = 0
	}
	END {
		end_file()
		exit bad > 0
	}
' <"$list" || { echo "lint-size: too long" >&2; exit 1; }
echo "lint-size: $n_files files within $file_max lines, functions within $function_max (kernels $kernel_max)"
