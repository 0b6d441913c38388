/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "options.h"

enum {
	HELP = 256,
	VERSION_OPTION,
	INTERFACE,
	PIN_DIR,
	SOCKET,
	SOCKET_GROUP,
	USER,
	ALLOW_USER,
	ALLOW_GENERIC,
	NO_SPLICE,
	EGRESS,
	VERIFY,
	NUMBER
};

#define ROWS_LEAST 4096
#define ROWS_MOST  (1ull << 28)

static const struct {
	const char *name;
	size_t offset;
	uint64_t initial, least, most;
	const char *help;
} numbers[] = {
#define AT(field) offsetof(struct options, field)
    {"flows", AT(flows), 262144, ROWS_LEAST, ROWS_MOST, "IPv4 flows to remember"},
    {"flows6", AT(flows6), 131072, ROWS_LEAST, ROWS_MOST, "IPv6 flows to remember"},
    {"sources", AT(sources), 262144, ROWS_LEAST, ROWS_MOST, "proven sources to remember"},
    {"talkers", AT(talkers), 131072, ROWS_LEAST, ROWS_MOST, "sources that sorbs may count"},
    {"sightings", AT(sightings), 262144, ROWS_LEAST, ROWS_MOST, "flows that a watch may learn"},
    {"splices", AT(splices), 65536, ROWS_LEAST, ROWS_MOST, "spliced flows at once"},
    {"flow-idle", AT(flow_idle), 86400, 10, 1000000, "seconds until a silent flow is forgotten"},
    {"flow-closing", AT(flow_closing), 120, 1, 1000000, "the same after a FIN or RST"},
    {"source-idle", AT(source_idle), 3600, 10, 1000000,
     "seconds until a silent source must prove itself again"},
    {"splice-idle", AT(splice_idle), 7440, 60, 1000000,
     "seconds until a silent spliced flow is over"},
    {"inserts-per-second", AT(inserts_per_second), 50000, 1, 10000000,
     "flows that one CPU may enter in a second"},
#undef AT
};

#define NUMBERS (sizeof(numbers) / sizeof(numbers[0]))

static const struct option words[] = {
    {"help", no_argument, NULL, HELP},
    {"version", no_argument, NULL, VERSION_OPTION},
    {"interface", required_argument, NULL, INTERFACE},
    {"pin-dir", required_argument, NULL, PIN_DIR},
    {"socket", required_argument, NULL, SOCKET},
    {"socket-group", required_argument, NULL, SOCKET_GROUP},
    {"user", required_argument, NULL, USER},
    {"allow-user", required_argument, NULL, ALLOW_USER},
    {"allow-generic", no_argument, NULL, ALLOW_GENERIC},
    {"no-splice", no_argument, NULL, NO_SPLICE},
    {"egress", required_argument, NULL, EGRESS},
    {"verify-checksums", required_argument, NULL, VERIFY},
};

#define WORDS (sizeof(words) / sizeof(words[0]))

void options_help(void)
{
	puts(
	    "usage: synproxyd run --interface IF [--interface IF]... [options]\n"
	    "       synproxyd check [--interface IF]...    what this machine can do, and why not\n"
	    "       synproxyd selftest                     runs the engine on packets of its own\n"
	    "       synproxyd status [--socket PATH]       what is in force\n"
	    "       synproxyd detach [--pin-dir DIR]       ends every mitigation and removes all "
	    "that is pinned\n"
	    "       synproxyd --version\n"
	    "\n"
	    "  --interface IF            where packets come in; may be given several times\n"
	    "  --pin-dir DIR             on a bpf file system (/sys/fs/bpf/synproxyd)\n"
	    "  --socket PATH             control socket (/run/synproxyd/control.sock)\n"
	    "  --socket-group GROUP      group that may open the socket\n"
	    "  --user USER               whom to become once everything is attached\n"
	    "  --allow-user USER         who is served besides root; may be given several times\n"
	    "  --allow-generic           attach in generic mode where the driver has no native "
	    "one\n"
	    "  --no-splice               attach nothing where packets leave; there is no mode "
	    "splice then\n"
	    "  --egress WORD             clsact: a filter where packets leave, not a link; or auto "
	    "(auto)\n"
	    "  --verify-checksums WORD   on, off or auto: off on veth, virtio and tun (auto)");
	for (size_t i = 0; i < NUMBERS; i++)
		printf("  --%-23s %s (%" PRIu64 ")\n", numbers[i].name, numbers[i].help,
		       numbers[i].initial);
}

static bool complain(const char *format, ...) __attribute__((format(printf, 1, 2)));

static bool complain(const char *format, ...)
{
	va_list arguments;

	fputs("synproxyd: ", stderr);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputs("\n  what to do: run synproxyd --help\n", stderr);
	return false;
}

static bool read_number(struct options *options, size_t which, const char *text)
{
	char *end;
	uint64_t value;

	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno || end == text || *end || *text == '-' || value < numbers[which].least ||
	    value > numbers[which].most)
		return complain(
		    "--%s takes a whole number from %" PRIu64 " to %" PRIu64 ", not '%s'",
		    numbers[which].name, numbers[which].least, numbers[which].most, text);
	memcpy((char *)options + numbers[which].offset, &value, sizeof(value));
	return true;
}

static bool read_verify(struct options *options, const char *text)
{
	static const char *const names[] = {
	    [VERIFY_AUTO] = "auto", [VERIFY_ON] = "on", [VERIFY_OFF] = "off"};

	for (int i = VERIFY_AUTO; i <= VERIFY_OFF; i++)
		if (!strcmp(text, names[i])) {
			options->verify = i;
			return true;
		}
	return complain("--verify-checksums takes on, off or auto, not '%s'", text);
}

static bool read_egress(struct options *options, const char *text)
{
	if (strcmp(text, "auto") && strcmp(text, "clsact"))
		return complain("--egress takes auto or clsact, not '%s'", text);
	options->egress = strcmp(text, "auto") ? EGRESS_CLSACT : EGRESS_AUTO;
	return true;
}

static bool read_interface(struct options *options, const char *text)
{
	if (options->interfaces == INTERFACES_MOST)
		return complain("more than %d interfaces", INTERFACES_MOST);
	for (unsigned int i = 0; i < options->interfaces; i++)
		if (!strcmp(options->interface[i], text))
			return complain("the interface '%s' is given twice", text);
	if (!*text || strlen(text) >= 16)
		return complain("'%s' is no name of an interface", text);
	options->interface[options->interfaces++] = text;
	return true;
}

static bool read_option(struct options *options, int option, const char *text)
{
	switch (option) {
	case HELP:
		options->command = SHOW_HELP;
		return true;
	case VERSION_OPTION:
		options->command = SHOW_VERSION;
		return true;
	case INTERFACE:
		return read_interface(options, text);
	case PIN_DIR:
		options->pin_dir = text;
		return true;
	case SOCKET:
		options->socket = text;
		return true;
	case SOCKET_GROUP:
		options->socket_group = text;
		return true;
	case USER:
		options->user = text;
		return true;
	case ALLOW_USER:
		if (options->allow_users == ALLOWED_USERS_MOST)
			return complain("more than %d users", ALLOWED_USERS_MOST);
		options->allow_user[options->allow_users++] = text;
		return true;
	case ALLOW_GENERIC:
		options->allow_generic = true;
		return true;
	case NO_SPLICE:
		options->no_splice = true;
		return true;
	case EGRESS:
		return read_egress(options, text);
	case VERIFY:
		return read_verify(options, text);
	default:
		return option >= NUMBER && read_number(options, option - NUMBER, text);
	}
}

static bool read_command(struct options *options, const char *word)
{
	static const char *const names[] = {[RUN] = "run",
					    [CHECK] = "check",
					    [SELFTEST] = "selftest",
					    [DETACH] = "detach",
					    [STATUS] = "status"};

	for (int i = RUN; i <= STATUS; i++)
		if (!strcmp(word, names[i])) {
			options->command = i;
			return true;
		}
	return complain("unknown command '%s'", word);
}

static bool read_words(struct options *options, int argc, char **argv)
{
	struct option all[WORDS + NUMBERS + 1] = {0};
	bool good = true;
	int option;

	memcpy(all, words, sizeof(words));
	for (size_t i = 0; i < NUMBERS; i++)
		all[WORDS + i] =
		    (struct option){numbers[i].name, required_argument, NULL, NUMBER + (int)i};
	while (good && (option = getopt_long(argc, argv, "", all, NULL)) != -1)
		good = option == '?' ? complain("unknown or incomplete option")
				     : read_option(options, option, optarg);
	if (good && optind < argc)
		return complain("unexpected argument '%s'", argv[optind]);
	return good;
}

bool options_read(struct options *options, int argc, char **argv)
{
	*options = (struct options){.command = SHOW_HELP,
				    .pin_dir = "/sys/fs/bpf/synproxyd",
				    .socket = "/run/synproxyd/control.sock"};
	for (size_t i = 0; i < NUMBERS; i++)
		memcpy((char *)options + numbers[i].offset, &numbers[i].initial, sizeof(uint64_t));
	if (argc > 1 && argv[1][0] != '-') {
		if (!read_command(options, argv[1]))
			return false;
		argc--;
		argv++;
	} else if (argc < 2) {
		return complain("no command is given");
	}
	if (!read_words(options, argc, argv))
		return false;
	if (options->command == RUN && !options->interfaces)
		return complain("run needs at least one --interface");
	return true;
}
