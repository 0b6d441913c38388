/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include <bpf/libbpf.h>

#include "daemon.h"
#include "log.h"
#include "wiping.h"

/* LeakSanitizer traces the process at its end, which this one does not let happen. */
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
	return "detect_leaks=0";
}
#endif
#endif

__attribute__((format(printf, 2, 0))) static int quiet(enum libbpf_print_level level,
						       const char *format, va_list arguments)
{
	char text[1024];
	int length;

	if (level != LIBBPF_WARN)
		return 0;
	length = vsnprintf(text, sizeof(text), format, arguments);
	while (length > 0 && length < (int)sizeof(text) && text[length - 1] == '\n')
		text[--length] = 0;
	log_warning("libbpf", "{s:s}", "message", text);
	return 0;
}

int main(int argc, char **argv)
{
	struct options options;

	if (!options_read(&options, argc, argv))
		return EXIT_USAGE;
	wiping_begin();
	libbpf_set_print(quiet);
	if (options.command != RUN)
		log_mute();
	libbpf_set_strict_mode(LIBBPF_STRICT_ALL);
	switch (options.command) {
	case RUN:
		return command_run(&options);
	case CHECK:
		return command_check(&options);
	case SELFTEST:
		return command_selftest(&options);
	case DETACH:
		return command_detach(&options);
	case STATUS:
		return command_status(&options);
	case SHOW_VERSION:
		printf("synproxyd %s, ABI %d\n", VERSION, FNM_ABI);
		return 0;
	default:
		options_help();
		return 0;
	}
}
