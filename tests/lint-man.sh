#!/bin/sh
# Manual pages: nothing for mandoc to complain about, every function of the library, every message of
# the protocol and every setting in a page, and no page that refers to one that does not exist.
set -eu
cd "${QLLM_SRCDIR:-$(dirname "$0")/..}"
export LC_ALL=C
status=0
pages=$(ls man/*.[1-9])
[ -n "$pages" ] || { echo "lint-man: no pages under $(pwd)/man" >&2; exit 1; }

complain() { echo "$*" >&2; status=1; }

# NAME PAGE: the page names it, as a whole word; minus signs are escaped there.
says() { sed 's/\\f[BIR]/ /g; s/\\-/-/g; s/\\&//g' "$2" | grep -qE "(^|[^A-Za-z0-9_-])$1([^A-Za-z0-9_-]|\$)"; }

functions=$(sed -n 's/^\t\(qllm_[a-z_]*\);$/\1/p' client/libqllm.sym)
[ -n "$functions" ] || complain "client/libqllm.sym: no functions found"
for name in $functions; do
	# the synopsis declares it, and NAME makes it a page of its own
	grep -hqE "^\.(BI|B) \"?[a-z].*[ *]$name\(" man/*.3 || complain "$name: declared in no page of section 3"
	grep -hqE "^(\.Nm |.*)$name([ ,]|\$)" man/*.3 || complain "$name: under NAME of no page"
done
messages=$(sed -n 's/^\tROW([A-Z_]*, [a-z_]*, "\([a-z-]*\)".*/\1/p' proto/msg.c)
[ -n "$messages" ] || complain "proto/msg.c: no messages found"
for name in $messages; do
	says "$name" man/qllm-protocol.7 || complain "message $name: not in man/qllm-protocol.7"
done
keys=$(sed -n 's/^\t{ "[a-z]*", "\([a-z_]*\)", CONFIG_.*/\1/p' daemon/config-table.c)
[ -n "$keys" ] || complain "daemon/config-table.c: no settings found"
for name in $keys; do
	says "$name" man/qllmd.conf.5 || complain "setting $name: not in man/qllmd.conf.5"
done
options=$(sed -n 's/^\t\t{ "\([a-z-]*\)", [a-z]*_argument,.*/\1/p' daemon/main.c)
[ -n "$options" ] || complain "daemon/main.c: no options found"
for name in $options; do
	says "--$name" man/qllmd.8 || complain "option --$name: not in man/qllmd.8"
done
for page in $(sed -n 's/^\.BR \([a-z0-9_.-]*\) (\([1-9]\)).*/\1.\2/p' $pages | tr -d '\\' | sort -u); do
	case $page in
	qllm* | libqllm*)
		[ -f "man/$page" ] || grep -hqE "^(.*[ ,])?$(echo "${page%.*}" | sed 's/[.]/[.]/g')([ ,]|\$)" man/*."${page##*.}" ||
			complain "man: a page refers to $page, which does not exist" ;;
	esac
done
for page in $pages; do
	grep -q "$page" man/local.mk || complain "$page: not in man/local.mk, so it is not installed"
done
[ $status = 0 ] || exit 1
if ! command -v mandoc >/dev/null; then
	echo "lint-man: mandoc is missing (apt install mandoc): the pages were not parsed"
	exit 77
fi
mandoc -Tlint $pages || { echo "lint-man: see above" >&2; exit 1; }
echo "lint-man: $(echo "$pages" | wc -l) pages, $(echo "$functions" | wc -l) functions, $(echo "$messages" | wc -l) messages, $(echo "$keys" | wc -l) settings"
