# systemd: units, presets and groups. All below $(prefix) unless configure is told otherwise; a unit names
# programs where they will be installed.
SYSTEM_UNITS = systemd/system/qllmd.service systemd/system/qllmd.socket systemd/system/qllm-worker.socket \
	systemd/system/qllm-worker@.service systemd/system/qllm-jobs.slice
USER_UNITS = systemd/user/qllmd.service systemd/user/qllmd.socket
UNITS = $(SYSTEM_UNITS) $(USER_UNITS)

systemunitdir = $(systemdsystemunitdir)
userunitdir = $(systemduserunitdir)
systempresetdir = $(prefix)/lib/systemd/system-preset
userpresetdir = $(prefix)/lib/systemd/user-preset
sysusersdir = $(prefix)/lib/sysusers.d
catalogdir = $(prefix)/lib/systemd/catalog
nodist_systemunit_DATA = $(SYSTEM_UNITS)
nodist_userunit_DATA = $(USER_UNITS)
dist_systempreset_DATA = systemd/system-preset/90-qllmd.preset
dist_userpreset_DATA = systemd/user-preset/90-qllmd.preset
dist_catalog_DATA = systemd/catalog/qllmd.catalog
dist_sysusers_DATA = systemd/sysusers.d/qllmd.conf

EXTRA_DIST += $(UNITS:=.in)
CLEANFILES += $(UNITS)
$(UNITS): %: %.in Makefile
	$(AM_V_GEN)$(MKDIR_P) $(@D) && $(SED) -e 's|@sbindir[@]|$(sbindir)|g' \
		-e 's|@libexecdir[@]|$(libexecdir)|g' '$(srcdir)/$@.in' >'$@.tmp' && mv '$@.tmp' '$@'

# systemd-analyze on the units as they are built, with programs that exist in place of those to be installed.
dist_check_SCRIPTS += tests/lint-units.sh
TESTS += tests/lint-units.sh
check_DATA = $(UNITS)
