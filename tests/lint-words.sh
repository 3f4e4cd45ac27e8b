#!/bin/sh
# Words that do not belong: marks of unfinished work anywhere, and names of instruction sets outside
# kernels/ (everything above asks the kernel table and knows no machine).
set -eu
cd "${QLLM_SRCDIR:-$(dirname "$0")/..}"
export LC_ALL=C
self=tests/lint-words.sh
status=0

list=$(mktemp)
trap 'rm -f "$list"' EXIT
find . -type d \( -name .git -o -name build -o -name build-aux -o -name m4 -o -name '*.cache' \
	-o -name __pycache__ \) -prune -o -type f \( -name '*.[ch]' -o -name '*.py' -o -name '*.sh' \
	-o -name '*.md' -o -name '*.mk' -o -name '*.am' -o -name '*.ac' -o -name '*.proto' -o -name '*.in' \
	-o -name check -o -name demo -o -name bootstrap -o -path './.ci/*' \) -print |
	sed 's|^\./||' | grep -v -e "^$self\$" -e '^config\.h' -e 'Makefile\.in$' -e '^aclocal\.m4$' \
	-e '\.pb-c\.[ch]$' | sort >"$list"
n_files=$(grep -c . "$list")
[ "$n_files" -gt 0 ] || { echo "lint-words: no sources under $(pwd)" >&2; exit 1; }

# mktemp's XXXXXX is no mark: a mark stands alone.
if xargs grep -nE '(^|[^A-Za-z0-9_])(TODO|FIXME|XXX|HACK)([^A-Za-z0-9_]|$)' <"$list"; then
	echo "lint-words: unfinished work is an issue, not a mark in the code" >&2
	status=1
fi
code=$(grep -E '^(base|proto|format|text|model|engine|train|quant|daemon|client|gateway)/.*\.[ch]$' "$list")
if printf '%s\n' "$code" | xargs grep -niE \
	'(^|[^a-z0-9])(avx[0-9_a-z]*|sse[0-9][0-9_a-z]*|ssse3|vnni[0-9_a-z]*|amx[_a-z0-9]*|neon|sve2?|simde)([^a-z0-9]|$)|_mm(256|512)?_|__m(128|256|512)|(imm|x86|arm_ne)intrin'; then
	echo "lint-words: only kernels/ names instruction sets" >&2
	status=1
fi
[ $status != 0 ] || echo "lint-words: $n_files files clean"
exit $status
