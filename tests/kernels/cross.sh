#!/bin/sh
# The NEON kernels against scalar: the kernels and their checks built for AArch64, run by qemu-user.
# Skipped (77) where the cross compiler or qemu is missing, and by the quick run, whose time it would take.
set -eu
cd "${QLLM_SRCDIR:-$(dirname "$0")/../..}"
cc=aarch64-linux-gnu-gcc
skip() { echo "1..0 # SKIP $1"; exit 77; }
[ "${QLLM_CHECK:-full}" != quick ] || skip "it takes 40 s: not in the quick run"
qemu=$(command -v qemu-aarch64-static || command -v qemu-aarch64) || skip "no qemu: apt install qemu-user-static"
command -v $cc >/dev/null || skip "no $cc: apt install gcc-aarch64-linux-gnu libc6-dev-arm64-cross"

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
for src in kernels/*.c kernels/scalar/*.c kernels/neon/*.c tests/kernels/*.c; do
	case $src in
	*/emulated*) continue ;;
	kernels/neon/*) flags=-march=armv8.2-a+dotprod ;;
	*) flags= ;;
	esac
	$cc -std=gnu11 -O1 -D_GNU_SOURCE -ffp-contract=off -fno-math-errno -I. $flags -c "$src" \
		-o "$out/$(echo "$src" | tr / _).o"
done
$cc -static "$out"/*.o -o "$out/checkkernels" -lm -lpthread
timeout 300 "$qemu" "$out/checkkernels"
