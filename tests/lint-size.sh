#!/bin/sh
# Files have at most 1,000 lines, lines 100 columns (a tab is 8), functions 120 lines (kernels 200).
# Generated tables are exempt; tables of patterns and vectors, whose lines do not break, from the width.
#
# A function runs from a "{" in the first column to the next "}" there, which is how all code here is laid out.
set -eu
cd "${QLLM_SRCDIR:-$(dirname "$0")/..}"
export LC_ALL=C
file_max=1000 function_max=120 kernel_max=200 width_max=100

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

xargs awk -v file_max=$file_max -v function_max=$function_max -v kernel_max=$kernel_max \
	-v width_max=$width_max '
	function width(s,    n, part, i, w) {
		gsub(/[\200-\277]/, "", s)             # a character counts once, not for each byte
		n = split(s, part, "\t")
		for (i = 1; i < n; i++)
			w = int((w + length(part[i])) / 8 + 1) * 8
		return w + length(part[n])
	}
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
		any_width = file == "text/pretok.c" || file ~ /\/golden-[a-z]*\.h$/
		max = file ~ /^(tests\/)?kernels\// ? kernel_max : function_max
	}
	{ lines = FNR }
	length($0) * 8 > width_max && !any_width && width($0) > width_max {
		printf "%s:%d: %d columns, at most %d: wrap it\n", file, FNR, width($0), width_max
		bad++
	}
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
echo "lint-size: $n_files files within $file_max lines of $width_max columns, functions within $function_max (kernels $kernel_max)"
