#!/bin/sh
# Units of systemd/: systemd-analyze must find nothing to say about them (verify), and their sandboxes must stay as
# closed as they are (security, offline: exposure in tenths, 0 is best, a bare unit has 96).
set -eu
build=${QLLM_BUILDDIR:-$(dirname "$0")/..}
command -v systemd-analyze >/dev/null || { echo "1..0 # SKIP no systemd-analyze: apt install systemd"; exit 77; }
[ -f "$build/systemd/system/qllmd.service" ] || { echo "lint-units: no units under $build: make check builds them" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export XDG_RUNTIME_DIR=$work/run        # a manager of users looks for one
mkdir -m 700 "$work/run"
status=0
fail() { echo "lint-units: $*" >&2; status=1; }

# Programs and manuals need not be installed to look at the rest; kill, socket and slice names stay.
for kind in system user; do
	mkdir "$work/$kind"
	for unit in "$build/systemd/$kind"/*.service "$build/systemd/$kind"/*.socket "$build/systemd/$kind"/*.slice; do
		[ -f "$unit" ] || continue
		sed -e 's|^\(ExecStart=\)[^ ]*|\1/bin/true|' -e '/^Documentation=/d' "$unit" >"$work/$kind/${unit##*/}"
		grep -q '@[a-z]*dir@' "$unit" && fail "$unit: a directory was not filled in"
		grep -qE '^(SocketGroup|SupplementaryGroups)=(qllmd|qllm-worker)$' "$unit" &&
			fail "$unit: a group that bears a unit's name takes it from DynamicUser="
		grep -q '^RuntimeDirectory=' "$unit" && fail "$unit: RuntimeDirectory= takes the socket's directory"
	done
done
# UNIT...: an instance stands for its template.
verify() {
	kind=$1
	shift
	for unit; do
		said=$(SYSTEMD_UNIT_PATH=$work/$kind: systemd-analyze verify --"$kind" --man=no --recursive-errors=no "$unit" 2>&1) ||
			{ echo "$said" >&2; fail "$kind unit $unit is not sound"; continue; }
		said=$(echo "$said" | grep "$work\|${unit%%[.@]*}" || :)
		[ -z "$said" ] || { echo "$said" >&2; fail "$kind unit $unit has warnings"; }
	done
}
verify system qllmd.service qllmd.socket qllm-worker.socket qllm-worker@1.service qllm-jobs.slice
verify user qllmd.service qllmd.socket

# Every MESSAGE_ID is explained, once, and none that is not sent.
src=${QLLM_SRCDIR:-$(dirname "$0")/..}
sent=$(sed -n 's/^#define ID_[A-Z_]* "\([0-9a-f]\{32\}\)"$/\1/p' "$src/daemon/journal.h" | sort)
told=$(sed -n 's/^-- \([0-9a-f]\{32\}\)$/\1/p' "$src/systemd/catalog/qllmd.catalog" | sort)
[ -n "$sent" ] && [ "$sent" = "$told" ] || fail "daemon/journal.h and systemd/catalog name different messages"
mkdir -p "$work/usr/lib/systemd/catalog" "$work/var/lib/systemd/catalog"
cp "$src/systemd/catalog/qllmd.catalog" "$work/usr/lib/systemd/catalog/"
if command -v journalctl >/dev/null; then
	journalctl --root="$work" --update-catalog || fail "the catalog is not sound"
	[ "$(journalctl --root="$work" --list-catalog | grep -c ' qllmd: [A-Z]')" = "$(echo "$told" | wc -l)" ] ||
		fail "an entry of the catalog has no subject"
fi

# TENTHS UNIT
score() {
	SYSTEMD_UNIT_PATH=$work/system: systemd-analyze security --offline=yes --no-pager --threshold="$1" \
		"$work/system/$2" >"$work/score" 2>&1 ||
		{ grep -v '^✓' "$work/score" >&2; fail "$2 is more exposed than $1 tenths"; }
	grep 'Overall exposure level' "$work/score" || fail "$2 has no score"
}
score 6 qllmd.service
score 15 qllm-worker@.service
[ $status != 0 ] || echo "lint-units: units are sound and closed"
exit $status
