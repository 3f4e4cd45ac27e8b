# tests/packaging: the Debian packages of debian/; ./check runs it where dpkg-buildpackage is.
EXTRA_DIST += tests/packaging/build tests/packaging/run \
	debian/changelog debian/control debian/copyright debian/libqllm-dev.install debian/libqllm0.install \
	debian/not-installed debian/qllmctl.install debian/qllmd.dirs debian/qllmd.install debian/qllmd.postinst \
	debian/qllmd.postrm debian/rules debian/source/format
