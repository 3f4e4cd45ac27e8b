# setup.sh - sourced by ./check and ./demo (bash): packages, builds, Python, models.
# Expects `src`, the top of the source tree.

: "${HOME:=/root}"
export HOME
cache=${XDG_CACHE_HOME:-$HOME/.cache}/qllmd
export QLLM_MODELS=${QLLM_MODELS:-$cache/models}

packages_build='build-essential autoconf automake libtool pkg-config libsystemd-dev libprotobuf-c-dev
	protobuf-c-compiler libjansson-dev libpcre2-dev libutf8proc-dev libxxhash-dev libinih-dev libedit-dev liburing-dev'
packages_models='python3 python3-pip'
packages_tests='debhelper debootstrap dpkg-dev fish gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static libcmocka-dev lintian strace systemd systemd-container libglib2.0-dev libsimde-dev mandoc python3-venv procps valgrind xz-utils zsh'

say() { printf '%s\n' "== $*" >&2; }
die() { printf '%s\n' "$*" >&2; exit 1; }

as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		die "need root or sudo for: $*"
	fi
}

# install_packages NAME...: those that are missing, by apt; silent when none is.
install_packages() {
	local package missing=()

	if ! command -v dpkg-query >/dev/null; then
		say "no Debian packages here: install the equivalents of: $(echo $*)"
		return 0
	fi
	for package; do
		[ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	say "installing ${missing[*]}"
	export DEBIAN_FRONTEND=noninteractive
	as_root apt-get -qq update </dev/null >&2 || true
	as_root apt-get -qq -y --no-install-recommends install "${missing[@]}" </dev/null >&2 ||
		die "apt-get could not install: ${missing[*]}"
}

# build_tree DIR TARGETS -- CONFIGURE-OPTIONS: out of tree, incremental; the log goes to DIR/build.log.
build_tree() {
	local dir=$1 targets=() options
	shift
	while [ "$1" != -- ]; do
		targets+=("$1")
		shift
	done
	shift
	options=$*
	[ ! -f "$src/config.status" ] || die "$src is configured in place: run 'make distclean' there first"
	mkdir -p "$dir"
	{
		if [ ! -x "$src/configure" ] || [ "$src/configure" -ot "$src/configure.ac" ]; then
			(cd "$src" && ./bootstrap) || return 1
		fi
		if [ ! -f "$dir/Makefile" ] || [ "$(cat "$dir/options" 2>/dev/null)" != "$options" ]; then
			(cd "$dir" && "$src/configure" "$@") || return 1
			printf '%s\n' "$options" >"$dir/options"
		fi
		make -C "$dir" -j"$(nproc)" "${targets[@]}"
	} >"$dir/build.log" 2>&1 </dev/null
}

# A virtual environment outside of the tree with what tests/lib/requirements.txt names; sets QLLM_PYTHON.
setup_python() {
	local wanted=$src/tests/lib/requirements.txt venv=$cache/venv

	if ! cmp -s "$wanted" "$venv/requirements.txt"; then
		say "installing Python packages into $venv"
		rm -rf "$venv"
		mkdir -p "$cache"
		python3 -m venv "$venv" >&2 || return 1
		"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$wanted" >&2 || return 1
		cp "$wanted" "$venv/requirements.txt"
	fi
	export QLLM_PYTHON=$venv/bin/python
}
