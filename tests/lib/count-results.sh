#!/bin/sh
# count-results.sh BUILDDIR - print "passed failed skipped" of the last `make check` there.
#
# A program that prints cmocka's messages counts by its test functions, one that ends with
# "N passed, N failed, N skipped" by those numbers, any other as one. A program that failed without
# naming a failed test (it crashed, or timed out) adds one failure.
set -eu
find "$1" -name '*.trs' | sort | while read -r trs; do
	log=${trs%.trs}.log
	result=$(sed -n 's/^:global-test-result: //p' "$trs" | head -n 1)
	awk -v result="${result:-ERROR}" '
		/^\[       OK \] / { ok[$NF] = 1 }
		/^\[  FAILED  \] [^ ]+$/ { failed[$NF] = 1 }
		/^\[  SKIPPED \] [^ ]+$/ { skipped[$NF] = 1 }
		/^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$/ { p = $1; f = $3; s = $5; summed = 1 }
		END {
			if (!summed) {
				for (t in failed) f++
				for (t in ok) p++
				for (t in skipped) s++
			}
			good = result == "PASS" || result == "SKIP"
			if (!good && !f)
				f = 1
			if (p + f + s == 0) {
				p = result == "PASS"
				s = result == "SKIP"
			}
			print p + 0, f + 0, s + 0
		}' "$log"
done | awk '{ p += $1; f += $2; s += $3 } END { print p + 0, f + 0, s + 0 }'
