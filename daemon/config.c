/* config - reads INI files into struct config through the table.
 *
 * 1. Every value goes through set_value, whether default, file or command line: one parser a type.
 * 2. An unknown key or section is an error: a misspelt limit must not silently stay at its
 *    default. */
#include "daemon/config.h"
#include <dirent.h>
#include <errno.h>
#include <ini.h>
#include <stdio.h>
#include <string.h>
#include "base/num.h"
#include "base/roff.h"
#include "base/str.h"

static int parse_bytes(const char *s, uint64_t *ret)
{
	_cleanup_mem_ char *digits = mem_strdup(s);
	size_t n = strlen(s);
	uint64_t unit = 1, x;
	const char *at;
	int r;

	if (!digits)
		return -ENOMEM;
	if (n > 1 && (at = strchr("KMGT", s[n - 1]))) {
		unit = 1ull << (10 * (at - "KMGT" + 1));
		digits[n - 1] = 0;
	}
	r = str_to_u64(digits, &x);
	if (r < 0)
		return r;
	return mul_overflows(x, unit, ret) ? -ERANGE : 0;
}

static int set_source(struct config *c, const struct config_key *key, const char *source,
                      struct err *err)
{
	char *copy = mem_strdup(source);

	if (!copy)
		return err_set(err, -ENOMEM, "out of memory");
	mem_free(c->source[key - config_table]);
	c->source[key - config_table] = copy;
	return 0;
}

static int set_value(struct config *c, const struct config_key *key, const char *value,
                     const char *source, struct err *err)
{
	void *at = (char *)c + key->offset;
	uint64_t x = 0;
	char shown[64];
	int r;

	if (key->type == CONFIG_STR) {
		char *copy = mem_strdup(value);

		if (!copy)
			return err_set(err, -ENOMEM, "out of memory");
		mem_free(*(char **)at);
		*(char **)at = copy;
		return set_source(c, key, source, err);
	}
	r = key->type == CONFIG_BYTES ? parse_bytes(value, &x) : str_to_u64(value, &x);
	if (r == -ENOMEM)
		return err_set(err, r, "out of memory");
	if (r < 0 || x < key->min || x > key->max)
		return err_set(err, -EINVAL, "%s = %s: a number from %llu to %llu is needed",
		               key->name, str_escape(shown, sizeof(shown), value, strlen(value)),
		               (unsigned long long)key->min, (unsigned long long)key->max);
	*(uint64_t *)at = x;
	return set_source(c, key, source, err);
}

int config_set(struct config *c, const char *name, const char *value, const char *source,
               struct err *err)
{
	for (size_t i = 0; i < config_n_keys; i++)
		if (strcmp(config_table[i].name, name) == 0)
			return set_value(c, &config_table[i], value, source, err);
	return err_set(err, -ENOENT, "unknown setting %s", name);
}

int config_text(const struct config *c, const struct config_key *key, struct sbuf *out)
{
	const void *at = (const char *)c + key->offset;

	if (key->type == CONFIG_STR)
		return sbuf_printf(out, "%s", *(char *const *)at);
	return sbuf_printf(out, "%llu", (unsigned long long)*(const uint64_t *)at);
}

struct parse {
	struct config *c;
	struct err *err;
	int r;
	FILE *f;
	const char *path;
	unsigned line;                  /* of what was read last */
};

/* inih tells its handler no line numbers: count what it reads. It would take the rest of a line
 * that its buffer is too short for as another line; a comment may be that long, a setting is
 * refused. */
static char *read_line(char *buf, int size, void *user)
{
	struct parse *p = user;
	char *line = p->r < 0 ? NULL : fgets(buf, size, p->f);
	int c = 0;

	if (!line)
		return NULL;
	p->line++;
	if (strchr(line, '\n') || feof(p->f))
		return line;
	while (c != EOF && c != '\n')
		c = fgetc(p->f);
	line += strspn(line, " \t");
	if (*line != ';' && *line != '#') {
		p->r = err_set(p->err, -EINVAL, "a line of more than %d bytes", size - 2);
		return NULL;
	}
	strcpy(buf, "\n");
	return buf;
}

static int on_pair(void *user, const char *section, const char *name, const char *value)
{
	struct parse *p = user;
	_cleanup_(sbuf_deinit) struct sbuf source = { 0 };
	char shown[64];

	if (p->r < 0)
		return 0;
	for (size_t i = 0; i < config_n_keys; i++) {
		const struct config_key *key = &config_table[i];

		if (strcmp(key->section, section) != 0 || strcmp(key->name, name) != 0)
			continue;
		p->r = sbuf_printf(&source, "%s:%u", p->path, p->line);
		if (p->r < 0)
			err_set(p->err, p->r, "out of memory");
		else
			p->r = set_value(p->c, key, value ? value : "", source.p, p->err);
		return p->r == 0;
	}
	p->r = err_set(p->err, -EINVAL, "unknown setting %s in section [%s]: see qllmd.conf(5)",
	               str_escape(shown, sizeof(shown), name, strlen(name)), section);
	return 0;
}

static int load_file(struct config *c, const char *path, bool must_exist, struct err *err)
{
	_cleanup_fclose_ FILE *f = fopen(path, "re");
	struct err own = { 0 };
	struct parse p = { .c = c, .err = &own, .f = f, .path = path };
	int line;

	if (!f)
		return errno == ENOENT && !must_exist
		               ? 0
		               : err_set(err, -errno, "%s: %s", path, strerror(errno));
	line = ini_parse_stream(read_line, &p, on_pair, &p);
	if (p.r < 0)
		return err_set(err, p.r, "%s:%u: %s", path, p.line, own.text);
	if (line != 0)
		return err_set(err, line == -2 ? -ENOMEM : -EINVAL,
		               "%s:%d: not a section, a setting or a comment", path, line);
	return 0;
}

static int is_conf(const struct dirent *d)
{
	size_t n = strlen(d->d_name);

	return d->d_name[0] != '.' && n > 5 && strcmp(d->d_name + n - 5, ".conf") == 0;
}

static int load_dir(struct config *c, const char *file, struct err *err)
{
	_cleanup_(sbuf_deinit) struct sbuf dir = { 0 };
	struct dirent **names = NULL;
	int n, r;

	r = sbuf_printf(&dir, "%s.d", file);
	if (r < 0)
		return err_set(err, r, "out of memory");
	n = scandir(dir.p, &names, is_conf, alphasort);
	if (n < 0)
		return errno == ENOENT || errno == ENOTDIR
		               ? 0
		               : err_set(err, -errno, "%s: %s", dir.p, strerror(errno));
	for (int i = 0; i < n; i++) {
		_cleanup_(sbuf_deinit) struct sbuf path = { 0 };

		if (r == 0 && sbuf_printf(&path, "%s/%s", dir.p, names[i]->d_name) < 0)
			r = err_set(err, -ENOMEM, "out of memory");
		if (r == 0)
			r = load_file(c, path.p, true, err);
		free(names[i]);
	}
	free(names);
	return r;
}

/* vendor: NULL for none. */
static int load(struct config **ret, const char *vendor, const char *file, bool must_exist,
                struct err *err)
{
	_cleanup_(config_freep) struct config *c = mem_alloc(sizeof(*c));
	int r = 0;

	if (!c)
		return err_set(err, -ENOMEM, "out of memory");
	for (size_t i = 0; i < config_n_keys && r == 0; i++)
		r = set_value(c, &config_table[i], config_table[i].def, "default", err);
	if (r == 0 && vendor)
		r = load_dir(c, vendor, err);
	if (r == 0)
		r = load_file(c, file, must_exist, err);
	if (r == 0)
		r = load_dir(c, file, err);
	if (r < 0)
		return r;
	*ret = STEAL(c);
	return 0;
}

int config_load(struct config **ret, const char *file, bool must_exist, struct err *err)
{
	return load(ret, NULL, file, must_exist, err);
}

int config_load_system(struct config **ret, const char *vendor, const char *file, struct err *err)
{
	return load(ret, vendor, file, false, err);
}

struct config *config_free(struct config *c)
{
	if (!c)
		return NULL;
	for (size_t i = 0; i < config_n_keys; i++) {
		if (config_table[i].type == CONFIG_STR)
			mem_free(*(char **)((char *)c + config_table[i].offset));
		mem_free(c->source[i]);
	}
	return mem_free(c);
}

/* What one key gets: its source, and the text of a string. */
struct fresh {
	char *source, *text;
};

static int copy_fresh(struct fresh *ret, const struct config *from, size_t i)
{
	const struct config_key *key = &config_table[i];

	ret->source = mem_strdup(from->source[i]);
	if (key->type == CONFIG_STR)
		ret->text = mem_strdup(*(char *const *)((const char *)from + key->offset));
	return ret->source && (ret->text || key->type != CONFIG_STR) ? 0 : -ENOMEM;
}

int config_apply_reload(struct config *to, const struct config *from)
{
	struct fresh fresh[CONFIG_KEYS_MAX] = { { NULL } };
	int r = 0;

	/* All copies first, so that a failure changes nothing. */
	for (size_t i = 0; i < config_n_keys && r == 0; i++)
		if (config_table[i].reload)
			r = copy_fresh(&fresh[i], from, i);
	for (size_t i = 0; i < config_n_keys; i++) {
		const struct config_key *key = &config_table[i];
		char *at = (char *)to + key->offset;

		if (!key->reload || r < 0) {
			mem_free(fresh[i].source);
			mem_free(fresh[i].text);
			continue;
		}
		mem_free(to->source[i]);
		to->source[i] = fresh[i].source;
		if (key->type == CONFIG_STR) {
			mem_free(*(char **)at);
			*(char **)at = fresh[i].text;
		} else {
			*(uint64_t *)at = *(const uint64_t *)((const char *)from + key->offset);
		}
	}
	return r;
}

void config_roff(FILE *f)
{
	const char *section = "";

	for (size_t i = 0; i < config_n_keys; i++) {
		const struct config_key *key = &config_table[i];

		if (strcmp(key->section, section) != 0)
			fprintf(f, ".SH [%s]\n", key->section);
		section = key->section;
		fprintf(f, ".TP\n\\fB%s\\fR", key->name);
		if (key->def[0]) {
			fputs(" = ", f);
			roff_word(f, key->def);
		}
		fputs(key->reload ? " (R)\n" : "\n", f);
		roff_lines(f, key->help, "");
	}
}
